"""`python -m perturb_nc` is `perturb-nc`."""

from perturb_nc.cli.main import main

main()
