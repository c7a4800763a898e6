"""Every metric of neural collapse, as a function of class statistics or of samples."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
