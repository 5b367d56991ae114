import torch

from lingbot.config import SCHEDULE_V1, SCHEDULE_V2
from lingbot.dit.schedule import add_noise, build_steps, flow_to_x0, timestep_embedding


def test_published_timesteps():
    assert [s.timestep for s in build_steps(SCHEDULE_V1)] == [999, 978, 947, 825]
    assert [s.timestep for s in build_steps(SCHEDULE_V2)] == [999, 937, 833, 624]


def test_other_numbers_of_steps_spread_evenly():
    steps = build_steps(SCHEDULE_V2, num_steps=2)
    assert [s.timestep for s in steps] == [999, 833]
    assert len(build_steps(SCHEDULE_V1, num_steps=8)) == 8


def test_the_true_flow_leads_back_to_the_clean_latent():
    x0, noise = torch.randn(2, 16, 3, 4, 4)
    noisy = add_noise(x0, noise, 0.7)
    torch.testing.assert_close(flow_to_x0(noisy, noise - x0, 0.7), x0)


def test_timestep_zero_is_all_cosines():
    assert timestep_embedding(torch.zeros(1), 8).tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
