import dataclasses

import torch

import perturb_nc as pnc


def test_collapsed_features_stay_on_their_ray():
    # H0 = the optimum's frame, scaled: M = aR; W* and the flow stay on multiples of R.
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=0.3, lambda_h=0.2)
    start = dataclasses.replace(exact, means=0.3 * exact.means).statistics(4)
    path = pnc.central_path_flow(start, lambda_w=0.3, lambda_h=0.2, times=[200.0], rtol=1e-9)
    torch.testing.assert_close(path.means[-1], exact.means, rtol=0, atol=1e-6)
