"""``annsoftmax doctor``: what this machine has, which backend will run, what is missing and how to get it."""

from __future__ import annotations

import os
import shutil

import torch

from annsoftmax_ref import machine
from annsoftmax_ref.commands.parser import subcommand
from annsoftmax_ref.datasets.cache import cache_folder
from annsoftmax_ref.experiments import records
from annsoftmax_ref.machine.threads import waiting
from kernels_inline import build, dispatch
from kernels_inline.cuda import nvcc, nvrtc

PACKAGES = ("torch", "numpy", "matplotlib", "pillow", "tqdm", "ninja", "jupyterlab", "ipywidgets", "nbval", "faiss-cpu")
OPTIONAL = {"jupyterlab": "notebooks", "ipywidgets": "notebooks", "nbval": "dev", "faiss-cpu": "peers"}


def add_doctor(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    subcommand(
        commands,
        "doctor",
        _doctor,
        "what this machine has, what will run, what is missing",
        "annsoftmax doctor --json -",
    )


def _doctor(arguments) -> None:
    facts = examine()
    if arguments.json != "-":
        print(report(facts))
    if arguments.json:
        records.write_record(facts, arguments.json)


def examine() -> dict:
    """Facts, and a list of ``missing`` things, each with the command that installs it."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    facts = {
        **machine.describe(),
        "cpu_features": machine.cpu_features(),
        # torch's own word for its version tells the build (+cpu, +cu130); a wheel's name may leave that out.
        "packages": {name: machine.version_of(name) for name in PACKAGES} | {"torch": torch.__version__},
        "compiler": machine.tool_version(compiler) if compiler else None,
        "nvcc": machine.tool_version(str(nvcc.find())) if nvcc.find() else None,
        "nvrtc": str(nvrtc.find()) if nvrtc.find() else None,
        "torch_cuda": torch.version.cuda,
        "gpu": gpu,
        "cache": str(cache_folder()),
        "waiting": waiting(),
        "backend": _backend(gpu),
    }
    facts["missing"] = list(_missing(facts))
    return facts


def _backend(gpu: str | None) -> str:
    """What a head runs on. Builds the C++ kernels, and with a GPU the CUDA ones, if they have not been built here."""
    reason = build.why_not()
    cpu = "C++ kernels" if reason is None else f"plain torch ({reason})"
    if not gpu:
        return f"CPU: {cpu}"
    try:
        how = dispatch.library_for(torch.device("cuda", torch.cuda.current_device())).how
        return f"CPU: {cpu}; GPU: CUDA kernels (by {how})"
    except build.BuildError as error:
        return f"CPU: {cpu}; GPU: plain torch ({error})"


def _missing(facts: dict):
    for name, version in facts["packages"].items():
        if version is None:
            extra = OPTIONAL.get(name)
            what = f"annsoftmax-ref[{extra}]" if extra else name
            yield {"what": name, "needed_for": extra or "everything", "install": f"pip install '{what}'"}
    if facts["compiler"] is None:
        yield {
            "what": "a C++ compiler",
            "needed_for": "C++ kernels",
            "install": "conda install -c conda-forge cxx-compiler (or apt-get install g++)",
        }
    if facts["torch_cuda"] and facts["nvcc"] is None:
        need = "CUDA kernels" if facts["nvrtc"] is None else "CUDA kernels by load_inline; NVRTC builds them without it"
        yield {"what": "nvcc", "needed_for": need, "install": "conda install -c conda-forge cuda-nvcc"}
    if facts["torch_cuda"] and facts["gpu"] is None:
        yield {"what": "a GPU that torch can use", "needed_for": "CUDA", "install": "an NVIDIA driver (see nvidia-smi)"}


def report(facts: dict) -> str:
    """The facts for people."""
    lines = [
        f"system     {facts['system']}, Python {facts['python']}",
        f"cpu        {facts['cpu']}, {facts['cores']} cores, {facts['threads']} torch threads",
        f"waiting    threads wait {facts['waiting']}",
        f"features   {' '.join(facts['cpu_features']) or 'unknown'}",
        f"gpu        {facts['gpu'] or 'none'} (torch built for CUDA {facts['torch_cuda'] or '-'})",
        f"compiler   {facts['compiler'] or 'none'}",
        f"nvcc       {facts['nvcc'] or 'none'}",
        f"nvrtc      {facts['nvrtc'] or 'none'}",
        "packages   " + ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items()),
        f"cache      {facts['cache']}",
        f"runs with  {facts['backend']}",
    ]
    for item in facts["missing"]:
        lines.append(f"missing    {item['what']} (for {item['needed_for']}): {item['install']}")
    if not facts["missing"]:
        lines.append("missing    nothing")
    return "\n".join(lines)
