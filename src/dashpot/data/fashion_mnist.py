"""Fashion-MNIST: 60 000 + 10 000 grayscale images of clothes, 28 x 28 pixels, in 10 classes.

Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
arXiv:1708.07747. Licence: MIT, copyright Zalando SE.
"""

from __future__ import annotations

import os
from pathlib import Path

from dashpot.data.idx_dataset import IdxFile
from dashpot.data.images import Images
from dashpot.data.loading import load_idx
from dashpot.data.published import PublishedDataset

DATASET = PublishedDataset(
    name="fashion-mnist",
    title="Fashion-MNIST",
    files={
        "train_images": IdxFile(
            "train-images-idx3-ubyte",
            sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            gzip_sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "train_labels": IdxFile(
            "train-labels-idx1-ubyte",
            sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            gzip_sha256="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "eval_images": IdxFile(
            "t10k-images-idx3-ubyte",
            sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            gzip_sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "eval_labels": IdxFile(
            "t10k-labels-idx1-ubyte",
            sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            gzip_sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
    folders=("fashion-mnist", "FashionMNIST/raw", ""),
    system=Path("/usr/share/datasets/fashion-mnist"),
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    advice=(
        "install the Debian or Ubuntu package dataset-fashion-mnist, set --data-dir or DASHPOT_DATA to a folder with "
        "its four idx .gz files, or use the task digits, which needs no download"
    ),
)
"""The published files and their mirrors, which need not be trusted, since downloads are verified."""


def load(data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Load Fashion-MNIST from the first available source.

    The sources are tried in this order: the user's folder, i.e. `data_dir` or the environment variable `DASHPOT_DATA`;
    the per-user cache; the system package (/usr/share/datasets/fashion-mnist); a download. The user's folder may
    contain the files directly, in `fashion-mnist/`, or in `FashionMNIST/raw/` (torchvision's layout). The files may be
    compressed (.gz) or not. Files from the system package or a download are decoded once, and the decoded data are
    stored in the cache.

    Args:
        data_dir: Folder to search first, or None.

    Returns:
        Images of shape (60000, 28, 28) and (10000, 28, 28) with values 0 to 255, and their labels 0 to 9.

    Raises:
        DataError: If a file is damaged, the user's folder is incomplete, or the data set is not found and cannot be
            downloaded.
    """
    return load_idx(DATASET, data_dir)
