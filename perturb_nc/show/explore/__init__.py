"""A local page whose sliders move the theory beside the measurements."""
