"""Setuptools' entry for what pyproject.toml cannot describe: the compiled libraries of the package.

    _C_cpu.abi3.so    from mtaclip/ops/csrc/cpu     needs PyTorch 2.10 or newer and a C++ compiler
    _C_cuda.abi3.so   from mtaclip/ops/csrc/cuda    needs also nvcc, of the major version that PyTorch's CUDA has

Each is left out, with one sentence that says why, where something is missing; the package works without them.
MTACLIP_BUILD_CPU and MTACLIP_BUILD_CUDA: 0 leaves the library out, 1 makes its absence an error, auto (the default)
decides as described. CXX, CUDA_HOME, TORCH_CUDA_ARCH_LIST and MAX_JOBS mean what they mean to PyTorch's own builds.
"""

import importlib.util
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).resolve().parent
SOURCES = Path("mtaclip/ops/csrc")
OLDEST_TORCH = (2, 10)
# The binary interface of that version, of which the libraries use nothing newer: they load in every later one.
TARGET = "0x020a000000000000"
OPTIONS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-g0"]
# GCC warns of its own headers, and Clang of GCC's options.
OPTIONS += ["-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]
AVX2 = ["-mavx2", "-mfma", "-mprfchw"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
FOR_FILE = {"kernels_avx2.cpp": AVX2, "kernels_avx512.cpp": AVX512}
NVCC_OPTIONS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
ARCHITECTURES = "8.0;9.0+PTX"


class NotBuilt(Exception):
    """Why a library is left out; the message is one sentence without its full stop."""


class CompiledLibrary(Extension):
    """One library, for the device type `device`; its facts are learnt when it is built."""

    def __init__(self, device: str) -> None:
        files = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / SOURCES).rglob("*.*"))
        folder = f"{SOURCES.as_posix()}/{device}/"
        super().__init__(
            f"mtaclip.ops._C_{device}",
            sources=[file for file in files if file.startswith(folder) and file.endswith((".cpp", ".cu"))],
            depends=[file for file in files if file.endswith((".h", ".cuh"))] + ["setup.py"],
            language="c++",
            py_limited_api=True,
        )
        self.device = device
        self.switch = f"MTACLIP_BUILD_{device.upper()}"

    def requested(self) -> str:
        """The environment variable of this library, checked."""
        value = os.environ.get(self.switch, "auto")
        if value not in {"0", "1", "auto"}:
            raise SystemExit(f"mtaclip: {self.switch} must be 0, 1 or auto, got {value!r}.")
        return value


class BuildLibraries(build_ext):
    """Builds each library that can be built, and says once why another is not."""

    def run(self) -> None:
        # Not setuptools' own, which builds elsewhere and copies: an editable installation would always compile anew.
        super(build_ext, self).run()

    def build_extension(self, ext: CompiledLibrary) -> None:
        try:
            self._build(ext)
        except (NotBuilt, BaseError, CCompilerError, OSError) as error:
            failed = isinstance(error, (BaseError, CCompilerError))
            reason = "a compiler or linker failed, for the reason printed above" if failed else error
            sentence = f"mtaclip: the compiled operator for {ext.device.upper()} is not built: {reason}."
            if ext.requested() == "1":
                raise SystemExit(f"{sentence} {ext.switch}=auto would leave it out.") from error
            sys.stderr.write(f"{sentence} The package runs without it; {ext.switch}=1 makes this an error.\n")

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".abi3.so"

    def get_output_mapping(self) -> dict[str, str]:
        return {built: file for built, file in super().get_output_mapping().items() if os.path.isfile(file)}

    def _build(self, ext: CompiledLibrary) -> None:
        torch = find_torch()
        if self.compiler.compiler_type != "unix":
            raise NotBuilt(f"its sources need GCC or Clang, not the compiler type {self.compiler.compiler_type!r}")
        cxx = self.compiler.compiler_cxx[0]
        if shutil.which(cxx) is None:
            raise NotBuilt(f"there is no C++ compiler {cxx!r}")
        # Both end up in a string of the library, from which mtaclip/ops/compiled.py reads what it was built for.
        facts = {"MTACLIP_TORCH": f"{torch.version};interface={interface()}"}
        if ext.device == "cuda":
            nvcc, version = find_nvcc(torch)
            names, codes = architectures(nvcc)
            facts["MTACLIP_CUDA"] = f"{version};architectures={' '.join(names)}"
        target = Path(self.get_ext_fullpath(ext.name))
        if not self.force and up_to_date(target, [*ext.sources, *ext.depends], facts):
            return
        ext.define_macros = [("TORCH_TARGET_VERSION", TARGET), *facts.items()]
        ext.include_dirs, ext.library_dirs = [str(torch.folder / "include")], [str(torch.folder / "lib")]
        target.parent.mkdir(parents=True, exist_ok=True)
        if ext.device == "cuda":
            command = [nvcc, *NVCC_OPTIONS, *codes, "-ccbin", cxx]
            self._build_with_nvcc(ext, [*command, "-DUSE_CUDA"], target)
        else:
            self._build_with_compiler(ext, target)

    def _build_with_compiler(self, ext: CompiledLibrary, target: Path) -> None:
        x86 = platform.machine().lower() in {"x86_64", "amd64"}

        def compile_one(source: str) -> str:
            options = [*OPTIONS, *(FOR_FILE.get(Path(source).name, []) if x86 else [])]
            settings = {"macros": ext.define_macros, "include_dirs": ext.include_dirs, "extra_postargs": options}
            return self.compiler.compile([source], self.build_temp, **settings)[0]

        with ThreadPoolExecutor(jobs()) as pool:
            objects = list(pool.map(compile_one, ext.sources))
        self.compiler.link_shared_object(
            objects, str(target), libraries=["torch_cpu", "c10"], library_dirs=ext.library_dirs, target_lang="c++"
        )

    def _build_with_nvcc(self, ext: CompiledLibrary, command: list[str], target: Path) -> None:
        defines = [f"-D{name}={value}" for name, value in ext.define_macros]
        includes = [option for folder in ext.include_dirs for option in ("-isystem", folder)]

        def compile_one(source: str) -> str:
            compiled = Path(self.build_temp, source + ".o")
            compiled.parent.mkdir(parents=True, exist_ok=True)
            self.spawn([*command, *defines, *includes, "-c", source, "-o", str(compiled)])
            return str(compiled)

        with ThreadPoolExecutor(jobs()) as pool:
            objects = list(pool.map(compile_one, ext.sources))
        folders = [f"-L{folder}" for folder in ext.library_dirs]
        libraries = ["-ltorch_cuda", "-ltorch_cpu", "-lc10"]
        self.spawn([*command, "-shared", "-cudart", "shared", *objects, *folders, *libraries, "-o", str(target)])


class Torch(NamedTuple):
    """The PyTorch to build for, described without importing it, which takes seconds."""

    folder: Path
    version: str
    cuda: str | None


def find_torch() -> Torch:
    """PyTorch, of a version that the libraries can be built for."""
    found = importlib.util.find_spec("torch")
    if found is None:
        raise NotBuilt("there is no PyTorch while building; --no-build-isolation lets pip see the installed one")
    folder = Path(found.origin).parent
    facts = runpy.run_path(str(folder / "version.py"))
    version = str(facts["__version__"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise NotBuilt(f"it needs PyTorch 2.10 or newer, and this is {version}")
    return Torch(folder, version, facts["cuda"])


def interface() -> str:
    """The number of the operators' interface, by which the package knows a library of another version."""
    return re.search(r"^INTERFACE = (\d+)$", (ROOT / "mtaclip/ops/compiled.py").read_text(encoding="utf-8"), re.M)[1]


def jobs() -> int:
    """How many compilers run at a time: MAX_JOBS, else the number of processors."""
    value = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not value.isdigit() or int(value) == 0:
        raise NotBuilt(f"MAX_JOBS must be a positive number, got {value!r}")
    return int(value)


def up_to_date(target: Path, files: list[str], facts: dict[str, str]) -> bool:
    """Whether `target` was built from these files, as they are now, with these facts."""
    if not target.is_file() or target.stat().st_mtime < max(os.stat(ROOT / file).st_mtime for file in files):
        return False
    content = target.read_bytes()
    return all(f"={fact};".encode() in content for fact in facts.values())


# --- CUDA ------------------------------------------------------------------------------------------------------------


def find_nvcc(torch: Torch) -> tuple[str, str]:
    """A usable nvcc, and the version of its CUDA."""
    if torch.cuda is None:
        raise NotBuilt(f"this PyTorch, {torch.version}, is without CUDA")
    nvcc = str(cuda_home() / "bin" / "nvcc")
    version = re.search(r"release (\d+\.\d+)", output_of(nvcc, "--version"))
    if version is None:
        raise NotBuilt(f"{nvcc} does not say its version")
    if version[1].split(".")[0] != torch.cuda.split(".")[0]:
        raise NotBuilt(f"{nvcc} is of CUDA {version[1]}, and PyTorch {torch.version} of CUDA {torch.cuda}")
    return nvcc, version[1]


def cuda_home() -> Path:
    """The toolkit that CUDA_HOME or CUDA_PATH names, else the one of the command nvcc, else one in /usr/local."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            home = Path(os.environ[name])
            if not is_toolkit(home):
                raise NotBuilt(f"{name} is {home}, which holds no bin/nvcc and nvvm/")
            return home
    candidates = []
    if shutil.which("nvcc"):
        # The command may be a script in another folder; the compiler itself says where it is at home.
        found = re.search(r"^#\$ TOP=(.+)$", output_of("nvcc", "--dryrun", "-x", "cu", os.devnull), re.M)
        candidates += [Path(found[1].strip()).resolve()] if found else []
    candidates += [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    home = next(filter(is_toolkit, candidates), None)
    if home is None:
        raise NotBuilt("there is no nvcc; CUDA_HOME can say where CUDA is")
    return home


def is_toolkit(folder: Path) -> bool:
    return (folder / "bin" / "nvcc").is_file() and (folder / "nvvm").is_dir()


def output_of(*command: str) -> str:
    """What a command writes, errors included; nothing if it cannot be started."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError:
        return ""


def architectures(nvcc: str) -> tuple[list[str], list[str]]:
    """Those of TORCH_CUDA_ARCH_LIST that nvcc knows, like "9.0+PTX", and its options for them."""
    known, kept, options = set(output_of(nvcc, "--list-gpu-arch").split()), [], []
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHITECTURES
    for name in re.split(r"[;,\s]+", wanted.strip(" ;,")):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if match is None:
            raise NotBuilt(f"TORCH_CUDA_ARCH_LIST must hold numbers like 8.0 or 9.0+PTX, got {name!r}")
        number, letter = match[1] + match[2], match[3]
        if f"compute_{number}" in known:
            kept.append(name)
            for code in ["sm", "compute"] if match[4] else ["sm"]:
                options.append(f"-gencode=arch=compute_{number}{letter},code={code}_{number}{letter}")
    if not kept:
        raise NotBuilt(f"{nvcc} knows none of the architectures {wanted}")
    return kept, options


libraries = [library for library in map(CompiledLibrary, ("cpu", "cuda")) if library.requested() != "0"]
setup(
    ext_modules=[library for library in libraries if library.sources],
    cmdclass={"build_ext": BuildLibraries},
    # The libraries do not touch Python's own interface: one wheel serves every Python that the package supports.
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if libraries else {},
)
