"""Classification of the images in a folder with a sub-folder per class, as a task with validation and test data.

Run: python examples/image_folder.py [FOLDER]
     dashpot compare --task examples/image_folder.py --epochs 5
     dashpot compare --task examples/image_folder.py --task-options folder=FOLDER size=64
Without a folder, small synthetic images are written to the folder shapes in the current folder.
"""

import hashlib
import os
import random
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageOps
from torch import nn

import dashpot as dp
from dashpot.data import Batches, seeded
from dashpot.data.augment import crop, flip
from dashpot.tasks import Problem, Target, Task, accuracy
from dashpot.training import Learner, one_cycle

SUFFIXES = {".png", ".jpg", ".jpeg"}
SHARES = {"test": 0.2, "validation": 0.2}  # the other images of a class are training data


def build(folder=None, size=32, batch_size=32, target=0.9, margin=0.01):
    """Return the task. `size` is the height and width of the images after resizing, in pixels."""
    path = Path("shapes" if folder is None else folder)
    if folder is None and not path.exists():
        write_synthetic(path)
    classes = image_files(path)
    parts = split(classes)
    images = {file: pixels(file, size) for files in classes.values() for file in files}
    check_readable(path, images)
    names = list(classes)
    data = {}
    for part, files in parts.items():
        x = torch.stack([images[file] for file in files])
        data[part] = x, torch.tensor([names.index(file.parent.name) for file in files])
    std, mean = torch.std_mean(data["train"][0].float(), (0, 2, 3), keepdim=True)  # of each color, of training images
    data = {part: ((x.float() - mean) / std.clamp_min(1.0), y) for part, (x, y) in data.items()}

    def problem(seed):
        with seeded(seed):
            model = network(len(names))
        train = Batches(*data["train"], batch_size, shuffle=True, seed=seed, augment=augment)
        validation, test = (Batches(*data[part], 256) for part in ("validation", "test"))
        metrics = {"accuracy": accuracy}
        return Problem(model, train, nn.functional.cross_entropy, validation, metrics, test=test)

    return Task(
        name=path.resolve().name,
        build=problem,
        epochs=15,
        target=Target("accuracy", target, "max"),
        margin=margin,
        description=f"{len(names)} classes of images in {path}, {len(parts['train'])} training images, {size} x {size}",
        config={
            "data_sha256": digest(path, classes),
            "size": size,
            "batch_size": batch_size,
            "images": {part: len(files) for part, files in parts.items()},
        },
    )


def network(classes):
    layers = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def augment(x, generator):
    """Flip and shift the images of a batch; not suitable for letters and digits, which must not be flipped."""
    return crop(flip(x, generator), generator, padding=2)


# ---- reading and splitting -------------------------------------------------------------------------------------------


def image_files(folder):
    """Return the image files of each sub-folder, both in alphabetical order; other files are ignored."""
    if not folder.is_dir():
        raise dp.DataError(f"{folder} must be a folder with a sub-folder of images for each class.")
    classes = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            classes[child.name] = [file for file in sorted(child.iterdir()) if file.suffix.lower() in SUFFIXES]
    few = [f"{name} ({len(files)})" for name, files in classes.items() if len(files) < 3]
    if len(classes) < 2 or few:
        got = f"fewer in {', '.join(few)}" if few else f"{len(classes)} sub-folders"
        raise dp.DataError(f"{folder} must have two or more sub-folders with at least 3 PNG or JPEG files, got {got}.")
    return classes


def split(classes):
    """Return the files of each part, with the same share of every class.

    The files of a class are ordered by a hash of their names, so that the choice does not depend on a seed, on the
    order of the folder or on the date of a file. With new files, files near the limits of the parts may change parts.
    """
    parts = {"train": [], "validation": [], "test": []}
    for files in classes.values():
        ordered = sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).hexdigest())
        test, validation = (max(1, round(SHARES[part] * len(files))) for part in ("test", "validation"))
        parts["test"] += ordered[:test]
        parts["validation"] += ordered[test : test + validation]
        parts["train"] += ordered[test + validation :]
    return parts


def pixels(file, size):
    """Return an image as bytes of shape (3, size, size), resized and cropped to a square, or the reason if damaged."""
    try:
        with Image.open(file) as image:
            fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return type(error).__name__
    return torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8).reshape(size, size, 3).permute(2, 0, 1)


def check_readable(folder, images, most=5):
    damaged = [f"{file.relative_to(folder)} ({got})" for file, got in images.items() if isinstance(got, str)]
    if damaged:
        more = f" and {len(damaged) - most} more" if len(damaged) > most else ""
        raise dp.DataError(f"{folder} has damaged images: {', '.join(damaged[:most])}{more}; repair or remove them.")


def digest(folder, classes):
    """Return a checksum of the names and contents of all images."""
    total = hashlib.sha256()
    for files in classes.values():
        for file in files:
            total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


# ---- synthetic images ------------------------------------------------------------------------------------------------


def write_synthetic(folder, count=80):
    """Write images of disks, squares and triangles of random sizes, places and colors on noise."""
    draw = random.Random(0)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")  # another process may read the folder at any time
    for shape in ("disk", "square", "triangle"):
        (partial / shape).mkdir(parents=True)
        for index in range(count):
            image = Image.frombytes("RGB", (48, 48), bytes(draw.randrange(150) for _ in range(48 * 48 * 3)))
            radius = draw.uniform(6, 14)
            x, y = draw.uniform(radius, 48 - radius), draw.uniform(radius, 48 - radius)
            color, pen = tuple(draw.randrange(90, 256) for _ in range(3)), ImageDraw.Draw(image)
            left, top, right, bottom = x - radius, y - radius, x + radius, y + radius
            if shape == "disk":
                pen.ellipse([left, top, right, bottom], fill=color)
            elif shape == "square":
                pen.rectangle([left, top, right, bottom], fill=color)
            else:
                pen.polygon([(x, top), (left, bottom), (right, bottom)], fill=color)
            image.save(partial / shape / f"{index:03d}.{'png' if index % 2 else 'jpg'}")
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        if not folder.is_dir():
            raise
        shutil.rmtree(partial)


def main(folder=None):
    task = build(folder)
    learner = Learner.of(problem := task.build(seed=0), dp.AdamW, lr=0.01)
    learner.fit(task.epochs, callbacks=[one_cycle()])
    means = {part: learner.evaluate(getattr(problem, part)) for part in ("evaluation", "test")}
    print(f"{task.description}; target: an accuracy of {task.target.value} on the validation data (evaluation)")
    for part, values in means.items():
        print(f"{part:10}  accuracy {values['accuracy']:.3f}, loss {values['loss']:.3f}")
    return means


if __name__ == "__main__":
    try:
        means = main(*sys.argv[1:])
    except dp.DataError as error:
        sys.exit(str(error))
