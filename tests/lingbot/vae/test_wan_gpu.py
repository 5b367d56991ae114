"""The full VAE on a GPU, compared with itself on the CPU."""

import pytest
import torch

from lingbot.vae.memory import wan_decoder_bytes

pytest.importorskip("diffusers", reason="needs the extra [checkpoints]")

from tests.lingbot.vae.toy_wan import make_wan_vae

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@torch.inference_mode()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-2), (torch.bfloat16, 5e-2)])
def test_a_gpu_gives_nearly_the_video_and_the_condition_of_a_cpu(dtype, tolerance):
    """cuDNN convolves float32 in TF32."""
    cpu, gpu = make_wan_vae(), make_wan_vae(device="cuda", dtype=dtype)
    latents, image = torch.randn(1, 16, 6, 8, 12), 2 * torch.rand(1, 3, 64, 96) - 1
    state = gpu.new_decoder_state()
    pairs = [
        (
            gpu.decode_video(latents.cuda(), state),
            cpu.decode_video(latents, cpu.new_decoder_state()),
        ),
        (gpu.encode_condition(image), cpu.encode_condition(image)),
    ]
    for ours, exact in pairs:
        assert ours.is_cuda and ours.shape == exact.shape
        assert (ours.cpu().float() - exact).norm() < tolerance * exact.norm()
    kept = sum(frames.nbytes for frames in state if isinstance(frames, torch.Tensor))
    assert kept == wan_decoder_bytes(
        width=96, height=64, itemsize=dtype.itemsize, base=4, num_res_blocks=1
    )
    frames = gpu.decode(latents.cuda(), state)
    assert frames.shape == (24, 64, 96, 3)
