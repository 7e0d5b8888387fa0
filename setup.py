"""Packaging: the repository root is the package `fafa`."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ROOMS = ["app", "dataset_builders", "drawing", "evaluation", "models", "people", "retrieval", "synthesis", "training"]
ROOMS += ["world"]

# Ranges here, the tested set in constraints.txt.
CORE = [
    "torch>=2.6",
    "transformers>=5.20,<6",
    "huggingface_hub>=1.31",
    "filelock>=3.16",
    "safetensors>=0.5",
    "tokenizers>=0.22",
    "pillow>=11.0",
    "numpy>=1.26",
    "tqdm>=4.66",
    "typer>=0.20",
    "xxhash>=3.4",
]
EXTRAS = {
    "app": ["gradio>=6.20,<7", "fastapi>=0.115", "jinja2>=3.1", "uvicorn>=0.30"],
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2"],
    "search": ["scipy>=1.11"],
    "train": ["datasets>=4.0", "evaluate>=0.4.5", "accelerate>=1.6", "peft>=0.17", "matplotlib>=3.9", "pyyaml>=6.0"],
    # OpenCV 5 left out the one detector of people that needs no download, supervision 0.31 its tracker.
    "people": [
        "av>=15.0",
        "opencv-python-headless>=4.8,<5",
        "scikit-learn>=1.5",
        "scipy>=1.11",
        "supervision>=0.30,<0.31",
    ],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20"],
    "synthesis": [
        "accelerate>=1.6",
        "datasets>=4.0",
        "diffusers>=0.40",
        "json_repair>=0.40",
        "llguidance>=1.0",
        "matplotlib>=3.9",
        "openai>=2.0",
        "peft>=0.17",
        "protobuf>=5.0",
        "py3langid>=0.3",
        "pydantic>=2.10",
        "pyyaml>=6.0",
        "rensa>=0.3",
        "sentence-transformers>=6.0",
        "sentencepiece>=0.2",
        "torchmetrics>=1.4",
    ],
}
EXTRAS["dev"] = [
    *EXTRAS["app"],
    *EXTRAS["milvus"],
    *EXTRAS["search"],
    *EXTRAS["train"],
    *EXTRAS["onnx"],
    *EXTRAS["people"],
    *EXTRAS["synthesis"],
    "build>=1.2",
    "markdown-it-py>=3.0",
    "optuna>=4.0",
    "playwright>=1.50",
    "pytest>=8.0",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "setuptools>=77",
]


class BuildPackage(build_py):
    """Builds the package from the folder it shares with its own tooling."""

    def run(self):
        """Starts from nothing: a `build/lib` left by an earlier `pip install .` would bring deleted modules back."""
        shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
        super().run()

    def find_package_modules(self, package, package_dir):
        """Every root module is the package's, except this file."""
        modules = super().find_package_modules(package, package_dir)
        return [entry for entry in modules if entry[:2] != ("fafa", "setup")]


IN_ROOMS = find_packages(ROOT, include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")])


setup(
    name="fafa",
    version=re.search(r'^__version__ = "(.+)"$', (ROOT / "__init__.py").read_text(encoding="utf-8"), re.M)[1],
    description="Composed person retrieval on Hugging Face: find a person by a photo and a sentence",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The developers of the fafa package",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["composed person retrieval", "person re-identification", "image retrieval", "BLIP-2", "transformers"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    package_dir={"fafa": "."},
    packages=["fafa", *(f"fafa.{package}" for package in IN_ROOMS)],
    # tests/ and examples/ lie inside the package's folder: what MANIFEST.in puts into the sdist must not follow them
    # into the wheel. Data files are therefore named here.
    include_package_data=False,
    package_data={
        "fafa": ["checkpoints/tiny/*"],
        "fafa.app": ["static/*", "templates/*"],
        "fafa.synthesis": ["adapters/*.yaml", "recipes/*.yaml"],
        "fafa.evaluation": ["composed_retrieval/*.py", "composed_retrieval/*.md"],
    },
    install_requires=CORE,
    entry_points={"console_scripts": ["fafa = fafa.cli:main"]},
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildPackage},
)
