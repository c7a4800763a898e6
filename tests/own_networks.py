"""Networks made by the theories of depth themselves."""

import perturb_nc as pnc
from perturb_nc.theory.flow.chain import chain

LAMBDA_W, NAMES = 0.25, "abcd"
FITTING = ("central_path", "chain")


def path_of(start, lambda_w=LAMBDA_W):
    times = [0.3, 0.8, 1.5]
    path = pnc.central_path_flow(start, lambda_w=lambda_w, lambda_h=0.0, times=times, rtol=1e-9)
    return dict(zip(NAMES, (start, *(path.statistics(i) for i in range(3))), strict=True))


def chain_of(start, lambda_w=LAMBDA_W):
    found = chain(start, lambda_w=lambda_w, lambda_h=0.0, betas=[3.0] * 3)
    return dict(zip(NAMES, (start, *(found.statistics(i) for i in range(3))), strict=True))
