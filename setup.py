"""Setuptools' entry for code that pyproject.toml cannot describe: the compiled part of the package.

`mtaclip/ops/_C_cpu.abi3.so` is built where a C++ compiler and PyTorch 2.10 or newer are at hand, and left out, with one
sentence that says why, where they are not; the package works without it. MTACLIP_BUILD_CPU=0 leaves it out, =1 makes
its absence an error, =auto (the default) decides as described.
"""

import os
import platform
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NAME = "mtaclip.ops._C_cpu"
SOURCES = "mtaclip/ops/csrc/cpu"
OLDEST_TORCH = (2, 10)
OPTIONS = ["-std=c++20", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-g0"]
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
FOR_FILE = {"kernels_avx2.cpp": AVX2, "kernels_avx512.cpp": AVX512}


class NotBuilt(Exception):
    """Why the compiled part is left out; the message is one sentence without its full stop."""


class BuildExtension(build_ext):
    """Builds one library whose files have options of their own, or says once why it does not."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._describe(ext)
            if self.compiler.compiler_type != "unix":
                raise NotBuilt(f"its sources need GCC or Clang, not the compiler type {self.compiler.compiler_type!r}")
            compile_one = self.compiler._compile
            self.compiler._compile = lambda obj, src, suffix, cc, post, pp: compile_one(
                obj, src, suffix, cc, [*post, *self._options_for(src)], pp
            )
            try:
                super().build_extension(ext)
            finally:
                self.compiler._compile = compile_one
        except Exception as error:  # whatever a compiler or a linker can meet; the package works without the library
            if requested() == "1":
                raise
            sys.stderr.write(
                f"mtaclip: the compiled operator is not built: {error}. The package runs in plain PyTorch without it; "
                "MTACLIP_BUILD_CPU=1 makes this an error.\n"
            )

    def copy_extensions_to_source(self) -> None:
        built = [ext for ext in self.extensions if Path(self.get_ext_fullpath_built(ext)).is_file()]
        missing, self.extensions = self.extensions, built
        super().copy_extensions_to_source()
        self.extensions = missing

    def get_ext_fullpath_built(self, ext: Extension) -> str:
        """Where the build step put the library, whatever `inplace` says."""
        return os.path.join(self.build_lib, self.get_ext_filename(self.get_ext_fullname(ext.name)))

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".abi3.so"

    def _describe(self, ext: Extension) -> None:
        try:
            import torch
            from torch.utils.cpp_extension import include_paths, library_paths
        except ImportError as error:
            raise NotBuilt(f"PyTorch is not importable while building ({error}); --no-build-isolation helps") from error
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
            raise NotBuilt(f"it needs PyTorch 2.10 or newer, and this is {torch.__version__}")
        compiler = self.compiler.compiler_cxx[0] if getattr(self.compiler, "compiler_cxx", None) else "c++"
        if shutil.which(compiler) is None:
            raise NotBuilt(f"there is no C++ compiler {compiler!r}")
        ext.include_dirs, ext.library_dirs = include_paths(), library_paths()
        ext.define_macros = [("TORCH_TARGET_VERSION", "0x020a000000000000"), ("MTACLIP_TORCH", torch.__version__)]

    @staticmethod
    def _options_for(source: str) -> list[str]:
        return FOR_FILE.get(Path(source).name, []) if platform.machine().lower() in {"x86_64", "amd64"} else []


def requested() -> str:
    """MTACLIP_BUILD_CPU, checked."""
    value = os.environ.get("MTACLIP_BUILD_CPU", "auto")
    if value not in {"0", "1", "auto"}:
        raise SystemExit(f"mtaclip: MTACLIP_BUILD_CPU must be 0, 1 or auto, got {value!r}.")
    return value


def extensions() -> list[Extension]:
    """The library to try, or nothing if it was declined."""
    if requested() == "0":
        return []
    root = Path(__file__).resolve().parent
    return [
        Extension(
            NAME,
            sources=sorted(file.relative_to(root).as_posix() for file in (root / SOURCES).glob("*.cpp")),
            depends=sorted(file.relative_to(root).as_posix() for file in (root / SOURCES).glob("*.h")),
            extra_compile_args=OPTIONS,
            libraries=["torch_cpu", "c10"],
            language="c++",
            py_limited_api=True,
        )
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtension},
    # The library does not touch Python's own interface: one wheel serves every Python that the package supports.
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if extensions() else {},
)
