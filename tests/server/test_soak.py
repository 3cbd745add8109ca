"""One server for a long evening: random graphs, interrupts, mistakes; at the end all is as at the start."""

import os
import random
import threading
import urllib.request

import numpy as np
import pytest
from comfy_server import PromptError, Server
from example_inputs import write_example_inputs
from other_packs import graph, picture

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

RUNS = int(os.environ.get("DREAMO_SOAK_RUNS", "300"))
MISTAKES = [
    ("reference 0", {"task": "nonsense"}),
    ("reference 1", {"strength": float("nan")}),
    ("reference 0", {"start_percent": 0.9, "end_percent": 0.1}),
    ("reference 1", {"image": "a picture"}),
    ("loader", {"dreamo_name": "none.safetensors"}),
]


def resident(server):
    """Memory of the server's process in MiB."""
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def files(base):
    """What lies about, but for the host's own previews, logs and database."""
    kept = ("input", "output", "models", "custom_nodes")
    found = {
        str(p.relative_to(base)) for name in kept for p in (base / name).rglob("*") if "ComfyUI-DreamO" not in str(p)
    }
    return found | {str(p) for p in base.rglob("*.part")}


def random_graph(chance):
    prompt = graph(None, "none", references=chance.random() < 0.8)
    sampler = prompt["sampler"]["inputs"]
    sampler |= {"seed": chance.randrange(10**6), "steps": chance.randint(1, 6), "cfg": chance.choice([1.0, 2.5])}
    sampler["sampler_name"] = chance.choice(["euler", "heun", "dpmpp_2m"])
    prompt["latent"]["inputs"] |= {side: 16 * chance.randint(3, 8) for side in ("width", "height")}
    prompt["latent"]["inputs"]["batch_size"] = chance.randint(1, 2)
    if "apply" not in prompt:
        return prompt
    prompt["reference 1"]["inputs"] |= {"strength": chance.choice([0.0, 0.5, 1.0]), "end_percent": chance.random()}
    model = ["apply", 0]
    if chance.random() < 0.5:
        preset, low = chance.choice(["exact", "balanced", "fast", "custom"]), chance.random() < 0.5
        custom = {
            "prune": True, "margin": 1, "keep_ratio": 0.0, "refresh": "every n steps", "interval": 2,
            "sigma_distance": 0.4, "drift": 0.2, "store": "as computed",
        }  # fmt: skip
        inputs = {"model": model, "preset": preset, "low_memory": low, **custom}
        prompt["speed"] = {"class_type": "DreamOSpeed", "inputs": inputs}
        model = ["speed", 0]
    if chance.random() < 0.5:
        prompt["cache"] = {"class_type": "EasyCache", "inputs": {
            "model": model, "reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False,
        }}  # fmt: skip
        model = ["cache", 0]
    sampler["model"] = model
    return prompt


def interrupt(server):
    urllib.request.urlopen(
        urllib.request.Request(f"{server.url}/interrupt", data=b"", method="POST"), timeout=10
    ).close()


def test_soak(tmp_path):
    chance = random.Random(1)
    write_example_inputs(tmp_path)
    with Server(tmp_path, threads=1) as server:
        baselines = [graph(None, "none"), graph(None, "none", references=False)]
        first = [picture(server, prompt) for prompt in baselines]
        for _ in range(10):
            server.run(random_graph(chance))
        about, memory, outcomes = files(tmp_path), [], {"done": 0, "interrupted": 0, "failed": 0}
        for n in range(RUNS):
            prompt, timer = random_graph(chance), None
            if "apply" in prompt and chance.random() < 0.15:
                node, change = chance.choice(MISTAKES)
                prompt[node]["inputs"] |= change
            elif chance.random() < 0.2:
                timer = threading.Timer(chance.random() * 0.8, interrupt, (server,))
                timer.start()
            try:
                server.run(prompt)
                outcomes["done"] += 1
            except PromptError as error:
                outcomes["interrupted" if "interrupted" in str(error) else "failed"] += 1
            finally:
                if timer is not None:
                    timer.join()
            memory.append(resident(server))
            if n % 50 == 49:
                assert all(np.array_equal(picture(server, p), was) for p, was in zip(baselines, first, strict=True))
        assert all(np.array_equal(picture(server, p), was) for p, was in zip(baselines, first, strict=True))
        assert files(tmp_path) == about
    # The first half meets most sizes for the first time, and allocators keep what they have had once.
    later = memory[len(memory) // 2 :]
    slope = np.polyfit(range(len(later)), later, 1)[0]
    print(f"\n{RUNS} runs: {outcomes}; resident {memory[0]:.0f} to {memory[-1]:.0f} MiB, ", end="")
    print(f"{slope * 1024:.0f} KiB a run in the second half")
    assert outcomes["done"] and outcomes["failed"] and outcomes["interrupted"]
    # Of a server of about a gigabyte.
    assert slope * len(later) < 64
