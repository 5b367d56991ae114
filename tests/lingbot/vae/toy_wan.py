"""A Wan VAE of small random weights, and its tensors under the official names."""

import torch
from diffusers import AutoencoderKLWan

from lingbot.vae.statistics import WAN_MEAN, WAN_STD, per_channel
from lingbot.vae.wan import WanVAE
from lingbot.vae.wan_weights import FileNames


def make_network(*, base=4, depth=1, **options):
    torch.manual_seed(0)
    network = AutoencoderKLWan(base_dim=base, num_res_blocks=depth, **options)
    return network.eval().requires_grad_(False)


def make_wan_vae(**shape):
    device = torch.device("cpu")
    statistics = (per_channel(values, device=device) for values in (WAN_MEAN, WAN_STD))
    return WanVAE(make_network(**shape), *statistics)


def official_tensors(network):
    names = FileNames(blocks=network.config.num_res_blocks + 2)
    return {names.to_file(name): tensor.clone() for name, tensor in network.state_dict().items()}
