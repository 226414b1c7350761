"""Galleries of many vectors: recall, time and memory of build and search, rejection of unknown persons, killed builds.

    python benchmarks/gallery.py
    python benchmarks/gallery.py --identities 5000 --noise 2
    python benchmarks/gallery.py --identities 5000 --others

Identities are random directions in 256 dimensions; their vectors are the direction plus noise of `--noise` times its
length, normalized. At noise 1, two vectors of an identity have a cosine of 0.5, at noise 2 one of 0.2, where the most
similar of a million vectors of others is at 0.3. Queries are new vectors of stored identities. Recall counts how many
of the exact 10 nearest are found. Memory is the peak that the building process allocates; mapped files are not counted.
Where other work has the cores, the CPU time of a query is nearer to what it takes on a free machine. `--others`
compares indexes of FAISS with the same re-ranking of candidates.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from torch_nonlocal.gallery import EmbeddingModel, Entry, Gallery, build, open_gallery, recalibrate
from torch_nonlocal.gallery.vectors import Vectors, exact_nearest

MODEL = EmbeddingModel("0" * 64, "synthetic vectors")
CHUNK = 8192
OTHERS = (("IVF{cells},PQ64x4fs", (16, 64, 256)), ("HNSW32", (64, 256, 1024)))


def main() -> None:
    """Measure and print a table of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=50_000)
    parser.add_argument("--each", type=int, default=20, help="vectors per identity")
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--others", action="store_true", help="compare indexes of FAISS")
    parser.add_argument("--build", nargs=2, metavar=("VECTORS", "GALLERY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build_from(Path(options.build[0]), Path(options.build[1]), options.each)
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """All measurements, in a folder for the files."""
    centers = directions(np.random.default_rng(0), options.identities, options.dimension)
    path = folder / "vectors.npy"
    stored = np.lib.format.open_memmap(path, "w+", "<f4", (options.identities * options.each, options.dimension))
    for first in range(0, options.identities, 2000):
        block = np.repeat(centers[first : first + 2000], options.each, 0)
        stored[first * options.each : first * options.each + len(block)] = around(block, options.noise, first + 1)
    stored.flush()
    random_rows = np.random.default_rng(1).integers(0, options.identities, options.queries)
    queries = around(centers[random_rows], options.noise, 10**8)
    load = os.getloadavg()[0]
    print(f"{len(stored):,} vectors of {options.dimension} dimensions, {options.identities:,} identities")
    print(f"noise {options.noise:g}, {os.cpu_count()} cores, load {load:.1f}")
    if options.others:
        compare_others(stored, queries)
        return
    print(run_build(path, folder / "whole", options.each))
    gallery = open_gallery(folder / "whole", verify=False)
    for by, info in gallery.indexes.items():
        print(f"search by {by}: {info.reason}")
    size = sum(file.stat().st_size for file in gallery.folder.iterdir())
    print(f"files: {size / 1e6:,.0f} MB, of which the vectors are {stored.nbytes / 1e6:,.0f} MB")
    started = time.perf_counter()
    open_gallery(folder / "whole")
    print(f"open, with all digests: {time.perf_counter() - started:.2f} s")
    measure_search(gallery, stored, queries)
    measure_unknown(gallery, options)
    measure_kills(path, folder, options)


def measure_search(gallery: Gallery, stored: np.ndarray, queries: np.ndarray) -> None:
    """Recall against exact search, and time per query."""
    started = time.perf_counter()
    exact = exact_nearest(Vectors([stored], stored.shape[1]), queries, 10)[1]
    seconds = time.perf_counter() - started
    print(f"exact search: {1000 * seconds / len(queries):.1f} ms a query, in batches of 256")
    gallery.nearest(queries[:1])
    for batch in (1, 64):
        times, found, used = [], [], time.process_time()
        for first in range(0, len(queries), batch):
            started = time.perf_counter()
            found.append(gallery.nearest(queries[first : first + batch])[1])
            times.append(1000 * (time.perf_counter() - started) / len(found[-1]))
        cpu = 1000 * (time.process_time() - used) / len(queries)
        recall = recall_of(np.concatenate(found), exact)
        high = np.quantile(times, 0.95)
        print(f"batches of {batch}: recall@10 {recall:.4f}; {np.median(times):.2f} ms a query, 95 % below {high:.2f};")
        print(f"    CPU time {cpu:.2f} ms a query, load {os.getloadavg()[0]:.1f}")
    started = time.perf_counter()
    for query in queries[:200]:
        gallery.search(query[None], 10)
    print(f"with names and verdicts: {5 * (time.perf_counter() - started):.2f} ms a query")


def measure_unknown(gallery: Gallery, options: argparse.Namespace) -> None:
    """How many vectors of identities that are not stored are taken for a stored one."""
    unknown = around(directions(np.random.default_rng(7), 4000, options.dimension), options.noise, 10**9)
    for rate in (0.01, 0.05):
        started = time.perf_counter()
        gallery = recalibrate(gallery.folder, rate)
        seconds = time.perf_counter() - started
        for by in ("tracklet", "person"):
            best = gallery.nearest(unknown, 1, by=by)[0][:, 0]
            accepted = float((best > gallery.thresholds[by].similarity).mean())
            print(f"unknown persons, by {by}, rate {rate:.0%}: {accepted:.2%} accepted (calibrated in {seconds:.1f} s)")


def measure_kills(path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Kill a build several times, finish it, and compare it with the uninterrupted one."""
    command = [sys.executable, __file__, "--each", str(options.each), "--build", str(path), str(folder / "killed")]
    draw = random.Random(0)
    for _ in range(options.kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(3, 12))
        process.send_signal(signal.SIGKILL)
        print(f"killed: {process.wait() == -signal.SIGKILL}")
    print(run_build(path, folder / "killed", options.each))
    same = digest(folder / "killed") == digest(folder / "whole")
    print(f"the killed build has the same vectors and rows as the uninterrupted one: {same}")


def build_from(path: Path, folder: Path, each: int) -> None:
    """Build a gallery from a file of vectors, saving every second."""
    vectors = np.load(path, mmap_mode="r")
    entries = [Entry(f"{row // each:06d}/{row % each:03d}", f"{row // each:06d}", "") for row in range(len(vectors))]
    before = allocated()
    peak, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], allocated())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    steps: list[str] = []

    def log(line: str) -> None:
        steps.append(f"{line} from {time.perf_counter() - started:.1f} s")

    def embed(chosen: Any) -> Any:
        return vectors[np.asarray(chosen)], chosen

    build(folder, entries, embed, MODEL, chunk=CHUNK, save_seconds=1, log=log)
    seconds = time.perf_counter() - started
    stop.set()
    watcher.join()
    print(f"build: {seconds:.1f} s ({'; '.join(steps)}), {(peak[0] - before) / 2**20:,.0f} MB above the list of names")


def run_build(path: Path, folder: Path, each: int) -> str:
    """Build in a process of its own; its line."""
    command = [sys.executable, __file__, "--each", str(each), "--build", str(path), str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def compare_others(stored: np.ndarray, queries: np.ndarray) -> None:
    """Indexes of FAISS: time to build, and recall and time of a single query at several settings."""
    import faiss

    exact = exact_nearest(Vectors([stored], stored.shape[1]), queries, 10)[1]
    for template, settings in OTHERS:
        name = template.format(cells=2 ** round(np.log2(4 * len(stored) ** 0.5)))
        index = faiss.index_factory(stored.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        started = time.perf_counter()
        index.train(stored[np.random.default_rng(0).permutation(len(stored))[:100_000]])
        index.add(np.asarray(stored))
        print(f"{name}: built in {time.perf_counter() - started:.0f} s")
        for value in settings:
            if name.startswith("HNSW"):
                index.hnsw.efSearch = value
            else:
                faiss.extract_index_ivf(index).nprobe = value
            count = 64 if name.startswith("HNSW") else 1024
            started, found = time.perf_counter(), []
            for query in queries:
                candidates = index.search(query[None], count)[1][0]
                candidates = candidates[candidates >= 0]
                found.append(candidates[np.argsort(-(stored[candidates] @ query))[:10]])
            seconds = time.perf_counter() - started
            recall = recall_of(found, exact)
            print(
                f"  nprobe or efSearch {value}: recall@10 {recall:.3f}, {1000 * seconds / len(queries):.2f} ms a query"
            )


def directions(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Random unit vectors."""
    return unit(generator.standard_normal((count, dimension), dtype=np.float32))


def around(centers: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Unit vectors around centers."""
    generator = np.random.default_rng(seed)
    moved = generator.standard_normal(centers.shape, dtype=np.float32)
    return unit(centers + noise / centers.shape[1] ** 0.5 * moved)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors divided by their length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def recall_of(found: Any, exact: np.ndarray) -> float:
    """Mean fraction of the exact rows that were found."""
    shared = [len(np.intersect1d(one, other)) for one, other in zip(found, exact, strict=True)]
    return float(np.mean(shared)) / exact.shape[1]


def digest(folder: Path) -> str:
    """Digest of the vectors and the names of a gallery, in the order of the rows."""
    gallery, found = open_gallery(folder), hashlib.sha256()
    for _, block in gallery.vectors.blocks():
        found.update(block.tobytes())
    found.update("\n".join(gallery.rows.names).encode())
    return found.hexdigest()


def allocated() -> int:
    """Bytes that this process has allocated, without mapped files (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
