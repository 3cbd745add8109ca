"""Stand-ins for what newer hosts do differently, so that the host which the tests install shows it too.

Each is the difference alone, put on the host that is there; on a host that has it already it changes nothing.
"""

import dataclasses
import inspect

import comfy.ldm.common_dit
import comfy.ldm.flux.layers
import comfy.ldm.flux.model
import torch


class Norm(torch.nn.Module):
    """A root mean square norm with its parameter under the name that is wanted."""

    def __init__(self, width, name, dtype, device):
        super().__init__()
        self.name = name
        self.register_parameter(name, torch.nn.Parameter(torch.empty(width, dtype=dtype, device=device)))

    def forward(self, x):
        return comfy.ldm.common_dit.rms_norm(x, getattr(self, self.name), 1e-6)


def name_norms(monkeypatch, name):
    """FLUX.1's norms of queries and keys call their parameter `scale` (0.3.75) or `weight` (0.28 and later)."""

    class QKNorm(torch.nn.Module):
        def __init__(self, dim, dtype=None, device=None, operations=None):
            super().__init__()
            self.query_norm = Norm(dim, name, dtype, device)
            self.key_norm = Norm(dim, name, dtype, device)

        def forward(self, q, k, v):
            return self.query_norm(q).to(v), self.key_norm(k).to(v)

    monkeypatch.setattr(comfy.ldm.flux.layers, "QKNorm", QKNorm)


def require_parameters(monkeypatch):
    """`txt_ids_dims` has to be given (0.8 and later)."""
    there = comfy.ldm.flux.model.FluxParams
    fields = [(f.name, f.type, f) for f in dataclasses.fields(there) if f.name != "txt_ids_dims"]
    required = dataclasses.make_dataclass("FluxParams", [("txt_ids_dims", list), *fields], kw_only=True)
    monkeypatch.setattr(comfy.ldm.flux.model, "FluxParams", required)


def tell_patches_more(monkeypatch):
    """Patches and options of the forward have entries that 0.3.75 does not know."""
    there = comfy.ldm.flux.model.Flux.forward_orig
    signature = inspect.signature(there)

    def forward_orig(self, *args, **kwargs):
        call = signature.bind(self, *args, **kwargs)
        options = call.arguments["transformer_options"]
        options = {**options, "reference_image_num_tokens": [], "patches": dict(options.get("patches", {}))}
        told = lambda patch: lambda state: patch(state | {"transformer_options": options, "more": None})  # noqa: E731
        options["patches"]["post_input"] = [told(patch) for patch in options["patches"].get("post_input", ())]
        call.arguments["transformer_options"] = options
        return there(*call.args, **call.kwargs)

    monkeypatch.setattr(comfy.ldm.flux.model.Flux, "forward_orig", forward_orig)


def newer_host(monkeypatch):
    """All differences at once."""
    name_norms(monkeypatch, "weight")
    require_parameters(monkeypatch)
    tell_patches_more(monkeypatch)
