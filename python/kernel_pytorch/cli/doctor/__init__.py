"""The checks of ``kpt doctor``, by area; each is a function that returns its findings.

No check starts a GPU, and none needs PyTorch to be installed: what cannot be found out without it
is left out, and that it is missing is a finding.
"""
