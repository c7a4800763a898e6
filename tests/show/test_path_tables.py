from shown import printed

import perturb_nc as pnc
from perturb_nc.show import path_tables


def test_a_table_of_a_path_has_its_ends(statistics):
    times = [0.0, *(0.1 * i for i in range(1, 30))]
    path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.01, times=times)
    traces = {name: [1.0] * 30 for name in ("within", "between")}
    lines = printed(path_tables.flow_table(path, traces))
    assert max(map(len, lines)) <= 80
    firsts = [line.split()[0] for line in lines[3:] if line.strip() and line.strip()[0].isdigit()]
    assert (firsts[0], firsts[-1], len(firsts)) == ("0", "2.9", 8)


def test_a_calibration_fits_the_terminal(statistics):
    path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.01, times=[0.1, 0.2])
    layers = {"model.layers.0.output": statistics}
    layers |= {f"model.layers.{i + 1}.output": path.statistics(i) for i in range(2)}
    found = pnc.calibrate_depth(layers, lambda_w=0.1, lambda_h=0.01)
    lines = printed(path_tables.depth_table(found, title="a network"))
    assert max(map(len, lines)) <= 80
    assert sum("on the path" in line for line in lines) == 2
    assert not any("…" in line for line in lines)
    assert len(lines) < 20  # names take two lines at most
