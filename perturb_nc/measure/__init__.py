"""Any torch model to the class statistics of its layers."""
