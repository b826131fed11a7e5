"""The data sets that ship inside scikit-learn, read from its files: importing it would cost a child five seconds."""

import csv
import gzip
import importlib.util
import io
from pathlib import Path

import numpy as np

from trainers.workloads.tables import Table

__all__ = ["bundled_table", "digit_images"]

CELL_PARTS = ("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
              "symmetry", "fractal dimension")  # fmt: skip
CELLS = tuple(f"{kind} {part}" for kind in ("mean", "deviation of", "worst") for part in CELL_PARTS)
FLOWERS = ("sepal length", "sepal width", "petal length", "petal width")
WINES = ("alcohol", "malic acid", "ash", "alcalinity of ash", "magnesium", "phenols", "flavanoids",
         "nonflavanoid phenols", "proanthocyanins", "colour intensity", "hue", "od280/od315", "proline")  # fmt: skip
PATIENTS = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
CLASSES = {
    "breast_cancer": ("breast_cancer.csv", CELLS, "diagnosis"),
    "iris": ("iris.csv", FLOWERS, "species"),
    "wine": ("wine_data.csv", WINES, "cultivar"),
}


def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """1797 images of handwritten digits, float32 [N, 8, 8] from 0 to 1, and which digit each is, int64 [N]."""
    rows = np.loadtxt(io.StringIO(_text("digits.csv.gz")), delimiter=",", dtype=np.float32)
    return (rows[:, :-1] / 16).reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def bundled_table(name: str) -> Table:
    """breast_cancer, diabetes, iris or wine, the target in the last column; classes by their names."""
    if name == "diabetes":
        patients = [line.split() for line in _text("diabetes_data_raw.csv.gz").splitlines()]
        progress = _text("diabetes_target.csv.gz").split()
        rows = [(*patient, target) for patient, target in zip(patients, progress, strict=True)]
        return Table((*PATIENTS, "progression"), rows, [(name, line) for line in range(1, len(rows) + 1)])
    file, features, target = CLASSES[name]
    lines = list(csv.reader(io.StringIO(_text(file))))
    classes = lines[0][2:]  # the first line has the numbers of rows and columns, then the classes
    named = [(*line[:-1], classes[int(line[-1])]) for line in lines[1:]]
    return Table((*features, target), named, [(file, line) for line in range(2, len(lines) + 1)])


def _text(file: str) -> str:
    found = importlib.util.find_spec("sklearn")  # finds the folder, runs nothing of it
    if found is None or not found.submodule_search_locations:
        raise LookupError("this worker has no scikit-learn, with which the data set ships")
    content = (Path(found.submodule_search_locations[0]) / "datasets" / "data" / file).read_bytes()
    return (gzip.decompress(content) if file.endswith(".gz") else content).decode("utf-8")
