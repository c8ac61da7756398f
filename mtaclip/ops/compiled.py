"""The compiled libraries: where they are, what they were built for, and whether they load."""

import ctypes
import mmap
import os
import re
from pathlib import Path

import torch

# Of the operators between Python and the libraries; setup.py writes it into a library, and a library with another
# number, left over from before an update, is not loaded.
INTERFACE = 2
REBUILD = "`pip install --no-build-isolation --no-deps -e .` in the checkout builds it"
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")


class CompiledLibrary:
    """One library, loaded if it can be.

    Attributes:
        device: type of the devices it computes on.
        needs: what building it takes, in words.
        types: data types of values it takes.
        file: where it is, or would be.
        problem: one sentence that says why it is not used and what to do; "" if it is loaded.
        broken: whether it is there and should load, and does not.
    """

    def __init__(self, device: str, needs: str, types: tuple[torch.dtype, ...], unwanted: str = "") -> None:
        """Load it, unless `unwanted` gives a reason not to."""
        self.device, self.needs, self.types = device, needs, types
        self.file = Path(__file__).with_name(f"_C_{device}.abi3.so")
        self.broken = False
        self.problem = unwanted or self._load()

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"The compiled operator for {self.device.upper()}"

    def built_for(self) -> dict[str, str]:
        """What the file says about itself, read without loading it: "torch", "interface", "cuda", "architectures"."""
        if not self.file.is_file() or self.file.stat().st_size == 0:
            return {}
        with self.file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.search(rb"mtaclip-built-for-((?:\w+=[^;=\0]*;)+)", content)
            facts = found[1].decode() if found else ""
        return dict(fact.split("=") for fact in facts.split(";")[:-1])

    def _load(self) -> str:
        if not self.file.is_file():
            return f"{self.name} is not built; {REBUILD} where {self.needs} are."
        facts = self.built_for()
        origin = f"{self.name}, {self.file}, was built for PyTorch {facts.get('torch', 'unknown')}"
        if "cuda" in facts:
            origin += f" and CUDA {facts['cuda']}"
        self.broken = True
        if facts.get("interface", "1") != str(INTERFACE):
            return f"{origin} and for another version of this package; {REBUILD} anew."
        try:
            torch.ops.load_library(self.file)
        except OSError as error:
            reason = " ".join(str(error.__cause__ or error).split())
            return f"{origin} and does not load with {torch.__version__} ({reason}); {REBUILD} anew."
        self.broken = False
        return ""


def instruction_set(library: CompiledLibrary) -> str:
    """The instruction set that a loaded library for the CPU uses, one of `INSTRUCTION_SETS`."""
    function = ctypes.CDLL(str(library.file)).mtaclip_cpu_kernels
    function.restype = ctypes.c_char_p
    return function().decode()


def check_instruction_set(wanted: str, used: str | None) -> None:
    """Refuse a choice of MTACLIP_CPU that cannot be followed.

    Args:
        wanted: the variable's value; "" leaves the choice to the library.
        used: what the library has chosen, None without a library.

    Raises:
        ValueError: there is no such instruction set, or this processor or build is without it.
    """
    if wanted and wanted not in INSTRUCTION_SETS:
        raise ValueError(f"MTACLIP_CPU must be one of {', '.join(INSTRUCTION_SETS)} or unset, got {wanted!r}.")
    if wanted and used not in {wanted, None}:
        raise ValueError(f"MTACLIP_CPU asks for {wanted}, which this processor does not have: it can use {used}.")


def load_cpu() -> CompiledLibrary:
    """The library for CPUs, with the instruction set of MTACLIP_CPU."""
    types = (torch.float32, torch.float64, torch.bfloat16)
    library = CompiledLibrary("cpu", "a C++ compiler and PyTorch 2.10 or newer", types)
    check_instruction_set(os.environ.get("MTACLIP_CPU", ""), None if library.problem else instruction_set(library))
    return library


def load_cuda(unwanted: str) -> CompiledLibrary:
    """The library for NVIDIA's GPUs, unless `unwanted` gives a reason not to load it."""
    if torch.version.cuda is None:
        unwanted = f"The compiled operator for CUDA is of no use to PyTorch {torch.__version__}, which is without CUDA."
    types = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return CompiledLibrary("cuda", "nvcc, a C++ compiler and PyTorch 2.10 or newer", types, unwanted)
