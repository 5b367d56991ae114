"""One chunk on a fake model. `test_verify` reruns whole rollouts of the reference."""

import torch

from lingbot.config import SCHEDULE_V2
from lingbot.dit.sampler import sample_chunk
from lingbot.dit.schedule import add_noise, build_steps


class TrueFlow:
    """A model that knows the clean latents, and records its calls."""

    def __init__(self, clean):
        self.clean, self.inputs, self.timesteps, self.written = clean, [], [], []

    def __call__(self, x, timestep, chunk):
        self.inputs.append(x)
        self.timesteps.append(timestep.tolist())
        sigma = STEPS[len(self.inputs) - 1].sigma
        return (x - self.clean) / sigma

    def write_cache(self, x, chunk):
        self.written.append(x)


STEPS = build_steps(SCHEDULE_V2)


def test_a_chunk_is_renoised_between_steps_and_written_once():
    clean, noise = torch.randn(2, 1, 16, 3, 2, 2)
    renoise = [torch.full_like(clean, i) for i in range(3)]
    model, flows = TrueFlow(clean), []
    latents = sample_chunk(
        model,
        None,
        noise=noise,
        renoise=renoise.__getitem__,
        steps=STEPS,
        observe=lambda i, flow: flows.append(i),
    )
    torch.testing.assert_close(latents, clean)
    assert len(model.written) == 1 and model.written[0] is latents
    assert flows == [0, 1, 2, 3]
    assert model.timesteps == [[[step.timestep] * 3] for step in STEPS]
    assert model.inputs[0] is noise
    for i, step in enumerate(STEPS[1:]):
        expected = add_noise(clean, renoise[i], step.renoise_sigma)
        torch.testing.assert_close(model.inputs[i + 1], expected)
