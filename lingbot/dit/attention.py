"""The kernels of scaled dot product attention, and the choice between them.

PyTorch's own choice on a Hopper GPU is FlashAttention 2, which is about half as fast as the others.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch.nn import attention as torch_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot.errors import LingbotError

AttentionBackend = Literal["flash4", "flash3", "cudnn", "sdpa"]

# Fastest first.
BACKENDS: tuple[AttentionBackend, ...] = ("flash4", "flash3", "cudnn", "sdpa")
# PyTorch's name of an implementation that replaces FlashAttention 2, and the module that has it.
FLASH = {"flash4": ("FA4", "flash_attn.cute.interface"), "flash3": ("FA3", "flash_attn_interface")}
# The first that can run a call does; float32, for one, leaves only the last two.
KERNELS = {
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION],
}
FALLBACKS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

logger = logging.getLogger(__name__)


def choose_backend(
    wanted: AttentionBackend | Literal["auto"], find_obstacle: Callable[[AttentionBackend], str]
) -> AttentionBackend:
    """The wanted backend, or for auto the fastest without an obstacle; logs which and why.

    `find_obstacle` gives the reason why a backend cannot run here, '' where it can. Raises
    LingbotError for a wanted backend that cannot run.
    """
    if wanted != "auto":
        check_backend(wanted, obstacle=find_obstacle(wanted))
        logger.info("attention: %s, as configured", wanted)
        return wanted
    obstacles: dict[str, str] = {}
    for backend in BACKENDS:
        obstacles[backend] = find_obstacle(backend)
        if not obstacles[backend]:
            break
    logger.info("attention: %s (%s)", backend, describe(obstacles) or "the fastest")
    return backend


def check_backend(wanted: AttentionBackend, *, obstacle: str) -> None:
    """Raise LingbotError for a wanted backend that has an obstacle."""
    if obstacle:
        raise LingbotError(f"attention {wanted!r} cannot run here: {obstacle}", field="attention")


def describe(obstacles: Mapping[str, str]) -> str:
    return "; ".join(f"no {name}: {reason}" for name, reason in obstacles.items() if reason)


def find_obstacle(
    backend: AttentionBackend, *, device: torch.device, dtype: torch.dtype, head_dim: int
) -> str:
    """Why a backend cannot run a model's attention on a device, found by running it; or ''.

    An implementation of FlashAttention that can run stays active in this process.
    """
    if backend == "sdpa":
        return ""
    if lack := find_lack(backend, device=device):
        return lack
    try:
        if backend in FLASH:
            torch_attention.activate_flash_attention_impl(FLASH[backend][0])
        run_alone(backend, device=device, dtype=dtype, head_dim=head_dim)
    except (RuntimeError, ImportError, AttributeError, ValueError, AssertionError) as exc:
        if backend in FLASH:
            torch_attention.restore_flash_attention_impl()
        return (str(exc).splitlines() or [type(exc).__name__])[0]
    return ""


def find_lack(backend: AttentionBackend, *, device: torch.device) -> str:
    """The reason why this machine lacks a backend, found without running it; or ''."""
    if backend == "sdpa":
        return ""
    if device.type != "cuda":
        return f"it needs a GPU, not {device.type}"
    if backend in FLASH:
        if not hasattr(torch_attention, "activate_flash_attention_impl"):
            return f"torch {torch.__version__} cannot activate it"
        _, module = FLASH[backend]
        if not has_module(module):
            return f"no module {module}"
    return ""


def has_module(name: str) -> bool:
    """True if a module can be found. Its package is imported, it is not."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def run_alone(
    backend: AttentionBackend, *, device: torch.device, dtype: torch.dtype, head_dim: int
) -> None:
    """Run one call with this backend and no other. Raises RuntimeError if it cannot."""
    q = torch.zeros(1, 1, 128, head_dim, device=device, dtype=dtype)
    with sdpa_kernel(KERNELS["flash" if backend in FLASH else backend][0]):
        F.scaled_dot_product_attention(q, q, q)
    torch.cuda.synchronize(device)


@contextmanager
def use_backend(backend: AttentionBackend) -> Iterator[None]:
    """Let attention prefer a backend that `choose_backend` gave.

    Calls that it cannot run use others. The preference is the process's: a thread that decodes
    meanwhile has it, too.
    """
    if backend == "sdpa":
        yield
        return
    kernels = KERNELS["flash" if backend in FLASH else backend] + FALLBACKS
    with sdpa_kernel(kernels, set_priority=True):
        yield
