"""Packaging of electra_jax. Dependencies are lower bounds; `launch/constraints.txt` has the exact versions
that the scripts install and the tests ran with."""

from pathlib import Path

from setuptools import find_packages, setup

FORMATS = ["pyarrow>=18", "zstandard>=0.22"]  # Parquet and zstd inputs
# data_pipelines.clean: MinHash signatures, repair of Unicode, telephone numbers, languages (its model inside)
CLEAN = ["datasketch>=2.0", "ftfy>=6.3", "phonenumbers>=9.0", "py3langid>=0.4"]
# Scores and probes; scikit-learn and threadpoolctl also for data_pipelines.score.
FINETUNE = ["scikit-learn>=1.5", "seqeval>=1.2.2", "threadpoolctl>=3.5"]
PLOTS = ["matplotlib>=3.9"]  # curves.png, and figures of comparisons
SEARCH = ["bm25s>=0.3"]  # a search by words, beside which embeddings are shown
REPORT = ["bokeh>=3.9"]  # the charts of report.html; 3.9 reads CSS variables
TRACK = ["tensorboardX>=2.6", "wandb>=0.31"]
# To verify exports, and to read PyTorch's own files; sentence-transformers for exported embedding models.
HF = ["torch>=2.6", "transformers>=4.57", "sentence-transformers>=3.0"]
TEST = ["pytest>=8.0", "pytest-xdist>=3.7", "hypothesis>=6.100", "ruff>=0.6"]

setup(
    name="electra_jax",
    version="0.1.0",
    description=(
        "Pre-train text encoders by replaced token detection (ELECTRA) in JAX and Flax, on CPU, GPU or TPU."
    ),
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The electra_jax authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
    packages=[
        *find_packages(include=["electra_jax", "electra_jax.*", "data_pipelines", "data_pipelines.*"]),
        "electra_jax.recipes",
    ],
    # The recipes go with the package, but not as a top-level package named "configs".
    package_dir={"electra_jax.recipes": "configs"},
    package_data={
        "": ["*.md"],  # the READMEs that --help and errors name
        "electra_jax.recipes": ["*.json"],  # prices.json, which `plan` reads
        "electra_jax.benchmarks.accelerator": ["*.json"],  # losses that a device is compared with
        "electra_jax.comparison": ["results/*.json"],  # of the shipped recipes, as the next
        "electra_jax.minimal_pairs": ["results/*.json"],
        "electra_jax.training": ["reference_curves/*.json"],
        "electra_jax.reports": ["*.html", "*.css", "*.js"],  # the page without its contents
    },
    entry_points={"console_scripts": ["electra-jax = electra_jax.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8",
        "etils[epath]>=1.12",
        "filelock>=4.3",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "jax>=0.10.2",
        "ml-collections>=1.1.0",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "protobuf>=4.25",  # to read SentencePiece models
        "safetensors>=0.5",
        "scipy>=1.15",
        "sentencepiece>=0.2.1",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.22",
        "tqdm>=4.66",
    ],
    extras_require={
        "formats": FORMATS,
        "clean": CLEAN,
        "finetune": FINETUNE,
        "plots": PLOTS,
        "report": REPORT,
        "search": SEARCH,
        # The corpus builder's --runner. Beam wants protobuf < 7, which the generated files of sentencepiece
        # 0.2.3 refuse.
        "beam": ["apache-beam>=2.77", "sentencepiece<0.2.3"],
        # Datasets, runs and exports at gs:// and s3:// URLs: gcsfs and s3fs, and what Orbax needs for gs://.
        "buckets": ["etils[epath-gcs,epath-s3]>=1.12", "gcsfs>=2026.4", "s3fs>=2026.4"],
        "track": TRACK,
        "hf": HF,
        # CUDA 13, as `plan` compiles with; it needs NVIDIA's driver 580 or newer.
        "cuda": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "test": [*FORMATS, *CLEAN, *FINETUNE, *PLOTS, *REPORT, *SEARCH, *TRACK, *HF, *TEST],
    },
)
