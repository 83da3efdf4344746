"""Engines of the paper's size on this machine's GPU: converted, built, compared with ONNX Runtime, measured. The command `make gpu-check`."""

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from fv2es_builders import gpu_decode, gpu_speed
from fv2es_builders.cuda import Driver, Gpu, find_gpu, gpu_context
from fv2es_builders.engines import NamedInputs, accept_engine, runner_of
from fv2es_builders.errors import BuildError, BuildUsageError, GpuUnsupported, TensorRtMissing, WrongOnGpu
from fv2es_builders.parity import Case, Tolerance, accept_outputs, onnx_runner
from fv2es_builders.plan_runner import PlanRunner
from fv2es_builders.plans import (
    FLAVOURS,
    PLAN_NAME,
    RTX_CAPABILITIES,
    Flavour,
    available_flavours,
    plan_from_onnx,
    shape_profile,
)
from fv2es_builders.precision import INT8_LIMITS, PRECISIONS, Precision, converter
from fv2es_builders.presets import Preset, preset_by_name
from fv2es_builders.utterances import Runner

DEFAULT_PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16")

LIMIT_S: Final = 480.0
"""After this long no further plan is begun and no further size measured."""

END_S: Final = 590.0
"""After this long the process ends whatever it is at, with what was measured by then."""

PICTURE_LEVELS: Final = 4.0
"""Mean difference of decoded pictures from PyAV's that is admitted, of 255 levels: the converters to RGB round otherwise."""

_PACKAGES: Final = ("torch", "onnx", "onnxruntime", "numpy", "nvidia-dali-cuda130", "av")

Report = Callable[[str], None]


class Clock:
    """Counts from its making."""

    def __init__(self, limit_s: float) -> None:
        self._started, self._limit_s = time.perf_counter(), limit_s

    def passed_s(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._started

    def over(self) -> bool:
        """Whether the limit has passed."""
        return self.passed_s() > self._limit_s


def usable_flavour(gpu: Gpu, installed: Sequence[Flavour] | None = None) -> Flavour:
    """The TensorRT to measure: TensorRT itself, which serves, else TensorRT for RTX.

    Args:
        gpu: the machine's.
        installed: names of the TensorRTs to choose among; None: those that can be imported.

    Raises:
        TensorRtMissing: there is none.
        GpuUnsupported: there is only TensorRT for RTX, which has no code for this GPU.
    """
    found = available_flavours() if installed is None else installed
    remedy = "install TensorRT itself: pip install tensorrt-cu13"
    for flavour in FLAVOURS:
        if flavour not in found:
            continue
        if flavour == "tensorrt_rtx" and gpu.compute_capability not in RTX_CAPABILITIES:
            raise GpuUnsupported(flavour, compute_capability=gpu.compute_capability, remedy=remedy)
        return flavour
    raise TensorRtMissing("tensorrt", remedy=f"{remedy}, or TensorRT for RTX: pip install tensorrt-rtx-cu13")


def check_gpu(
    preset: Preset, result: dict[str, Any], *, precisions: Sequence[Precision], seed: int, clock: Clock, report: Report
) -> None:
    """Build, compare and measure all engines, and the decoder.

    Args:
        preset: sizes of the untrained model.
        result: gets plain data, step by step, so that it holds what is known if the process must end: hardware, versions, a row for
            each engine and precision, the decoder; `failures` names what disagreed.
        precisions: of the engines.
        seed: of the weights.
        clock: says when no further step is begun.
        report: told what is going on.

    Raises:
        GpuMissing, GpuUnsupported, TensorRtMissing: it can't be done here.
    """
    gpu = find_gpu()
    flavour = usable_flavour(gpu)
    found = available_flavours()[flavour]
    report(f"{gpu.name}, {flavour} {found}")
    engines: list[dict[str, Any]] = []
    failures: list[str] = []
    result |= {
        "schema_version": 1,
        "preset": preset.name,
        "seed": seed,
        "hardware": {**dataclasses.asdict(gpu), "cpu": _cpu(), "num_cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), flavour: found, **_versions()},
        "engines": engines,
        "decoder": {"skipped": "not reached"},
        "failures": failures,
    }
    driver = Driver()
    with tempfile.TemporaryDirectory(prefix="fv2es-gpu-check-") as folder, gpu_context(driver):
        sources = _sources(preset, Path(folder), seed=seed, report=report)
        report("running the FP32 graphs on real utterances")
        real = gpu_speed.real_inputs(sources, preset)
        for precision in precisions:
            for model, source in sources.items():
                if clock.over():
                    engines.append({"model": model, "precision": precision, "skipped": "no time left"})
                    continue
                report(f"{model} in {precision}: converting, building, comparing, measuring")
                row = {"model": model, "precision": precision}
                engines.append(row)
                try:
                    _engine(row, source, preset, real=real[model], flavour=flavour, driver=driver, clock=clock)
                except BuildError as error:
                    row["error"] = str(error)
                    failures.append(f"{model} in {precision}: {error}")
    report("decoding")
    result["decoder"] = _decoder(clock)
    if "error" in result["decoder"]:
        failures.append(f"decoder: {result['decoder']['error']}")
    result["duration_s"] = clock.passed_s()


def _sources(preset: Preset, folder: Path, *, seed: int, report: Report) -> dict[str, Path]:
    """The four graphs in FP32, of untrained weights."""
    from fv2es_builders.export import onnx_from_module, served_parts
    from fv2es_builders.modules.model import seeded_model

    report(f"making weights of {preset.name} from seed {seed}")
    model = seeded_model(preset, seed)
    paths = {}
    for _, module, spec in served_parts(model):
        report(f"exporting {spec.name}")
        paths[spec.name] = onnx_from_module(module, spec, folder / spec.name / "fp32.onnx")
    return paths


def _engine(
    row: dict[str, Any],
    source: Path,
    preset: Preset,
    *,
    real: NamedInputs,
    flavour: Flavour,
    driver: Driver,
    clock: Clock,
) -> None:
    """Fill one engine's row: what it is, how it agrees, how fast it is.

    Raises:
        BuildError: it was not converted or built, does not run, or does not agree.
    """
    model, precision = row["model"], row["precision"]
    graph, row["graph"] = lowered(source, model=model, precision=precision, real=real)
    plan = source.with_name(precision) / PLAN_NAME
    profile = shape_profile(model, num_labels=len(preset.labels))
    facts = plan_from_onnx(graph, plan, model=model, profile=profile, flavour=flavour)
    row["plan"] = dataclasses.asdict(facts)
    runner = PlanRunner(plan, flavour=flavour, driver=driver, facts=facts)
    row["memory_bytes"] = runner.memory_bytes
    # Noise is far from what ranges of less than FP32 are made for.
    inputs = [*real, *gpu_speed.parity_inputs(model, preset)] if precision == "fp32" else real
    row["from_fp32"] = differences(plan, runner.run, onnx_runner(source), inputs)
    row["parity"] = accept_engine(plan, runner.run, source=runner_of(graph, "gpu"), inputs=inputs, precision=precision)
    row["speeds"] = []
    for num_rows in gpu_speed.ENGINE_ROWS[model]:
        if clock.over():
            row["skipped"] = "no time left for larger batches"
            break
        inputs_of_size = gpu_speed.engine_inputs(model, preset, num_rows=num_rows)
        row["speeds"].append(dataclasses.asdict(runner.speed(inputs_of_size, num_rows=num_rows)))


def lowered(source: Path, *, model: str, precision: Precision, real: NamedInputs) -> tuple[Path, dict[str, Any]]:
    """A graph in another precision, as the build makes it for profile gpu, and in INT8 as many products as it ever takes.

    Args:
        source: the graph in FP32; the new file is put beside it.
        model: the graph's name.
        precision: FP32 is the source itself.
        real: inputs from which ranges are taken: every second one, as in the build.

    Returns:
        Its file, and how many products it has and how many of them are kept in more than the precision.

    Raises:
        BuildUsageError, CalibrationError: see `fv2es_builders.precision.converter`.
    """
    if precision == "fp32":
        return source, {}
    calibration = [arrays for _, arrays in real[::2]]
    convert = converter(source, model=model, precision=precision, calibration=calibration, profile="gpu")
    converted, target = convert(INT8_LIMITS[0]), source.with_name(f"{precision}.onnx")
    converted.write(target)
    return target, {"products": converted.products, "kept": len(converted.kept)}


def differences(plan: Path, run: Runner, source: Runner, inputs: NamedInputs) -> dict[str, dict[str, float]]:
    """How far an engine is from its graph in FP32, which is recorded and admits nothing: weights are untrained here.

    Args:
        plan: its file, for messages.
        run: executes it.
        source: executes the graph in FP32.
        inputs: named.

    Raises:
        ParityError: an output has another shape, or numbers that are none.
    """
    cases = [Case(name=name, inputs=arrays, outputs=source(arrays)) for name, arrays in inputs]
    anything = dict.fromkeys(cases[0].outputs, Tolerance(value=math.inf))
    figures = accept_outputs(plan, run, cases=cases, tolerances=anything)
    return {
        name: {"max_abs": each.max_abs, "mean_abs": each.mean_abs, "median_abs": each.median_abs}
        for name, each in figures.items()
    }


def _decoder(clock: Clock) -> dict[str, Any]:
    missing = gpu_decode.decoder_missing()
    if missing or clock.over():
        return {"skipped": missing or "no time left"}
    films: list[dict[str, Any]] = []
    for width_px, height_px in gpu_decode.FILMS_PX:
        data = gpu_decode.film("gpu", width_px=width_px, height_px=height_px, num_pictures=gpu_decode.NUM_PICTURES)
        try:
            row = gpu_decode.decode_speed(data, device="gpu")
        except RuntimeError as error:  # DALI's only kind
            return {"films": films, "error": str(error)}
        films.append(row)
        if not row["mean_difference"] <= PICTURE_LEVELS:  # written this way round so that NaN fails
            what = f"{width_px}x{height_px}: pictures differ from PyAV's by {row['mean_difference']:.1f} levels"
            return {"films": films, "error": f"{what}, more than {PICTURE_LEVELS:g}"}
    return {"films": films}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result for people: engines, their speed, the decoder."""
    engines = Table(title="Engines", box=None)
    columns = ("MB", "GPU MB", "layers", "build s", "output", "max |error|", "allowed", "from FP32")
    for column in ("engine", "precision", *columns):
        engines.add_column(column, justify="left" if column in ("engine", "precision", "output") else "right")
    speed = Table(title="Speed", box=None)
    for column in ("engine", "precision", "rows", "GPU ms p50", "p95", "with copies ms p50", "p95", "rows/s"):
        speed.add_column(column, justify="left" if column in ("engine", "precision") else "right")
    for row in result["engines"]:
        names = (row["model"], row["precision"])
        plan, made = row.get("plan"), ("", "", "", "")
        if plan:
            memory = f"{row['memory_bytes'] / 1e6:.0f}" if "memory_bytes" in row else ""
            made = (f"{plan['num_bytes'] / 1e6:.1f}", memory, str(plan["num_layers"]), f"{plan['duration_s']:.0f}")
        if "parity" not in row:
            engines.add_row(*names, *made, "", "FAILED" if "error" in row else "skipped", "", "")
        for output, figures in row.get("parity", {}).items():
            from_fp32 = row["from_fp32"][output]["max_abs"]
            agrees = (f"{figures['max_abs']:.1e}", f"{figures['allowed']:.1e}", f"{from_fp32:.1e}")
            engines.add_row(*names, *made, output, *agrees)
        for each in row.get("speeds", []):
            times = [f"{value:.2f}" for value in (*each["device_ms"], *each["whole_ms"])]
            speed.add_row(*names, str(each["num_rows"]), *times, f"{each['rows_per_s']:.0f}")
    decoder = Table(title="Decoder (NVDEC)", box=None)
    for column in ("film", "seconds", "pictures", "ms", "film s per s", "levels off"):
        decoder.add_column(column, justify="left" if column == "film" else "right")
    for each in result["decoder"].get("films", []):
        decoder.add_row(
            f"{each['width_px']}x{each['height_px']}",
            f"{each['film_s']:g}",
            str(each["num_pictures"]),
            f"{each['median_ms']:.1f}",
            f"{each['film_s_per_s']:.0f}",
            f"{each['mean_difference']:.1f}",
        )
    for word in ("skipped", "error"):
        if word in result["decoder"]:
            decoder.add_row(f"{word}: {result['decoder'][word]}")
    return [engines, speed, decoder]


def end_after(seconds: float, last: Callable[[], None]) -> threading.Timer:
    """End the process with status 1 after some time, whatever it is at: a builder or a driver that hangs can't be asked to stop.

    Args:
        seconds: from now.
        last: called before the end.

    Returns:
        The timer, to cancel.
    """

    def end() -> None:
        try:
            last()
        finally:
            os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def write_result(output: Path, result: Mapping[str, Any]) -> None:
    """Put the figures into a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m fv2es_builders.gpu_check --output FILE.json`.

    Returns:
        0 all engines agree, 1 one does not or there is no GPU, 2 bad usage.
    """
    parser = argparse.ArgumentParser(prog="python -m fv2es_builders.gpu_check", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="where to write the figures")
    parser.add_argument("--preset", default="fv2es-iemocap", help="sizes of the model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights (default: %(default)s)")
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help=f"of the engines; may be repeated (default: {' and '.join(DEFAULT_PRECISIONS)})",
    )
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong, or printed its help
        return stop.code if isinstance(stop.code, int) else 2
    console, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    result: dict[str, Any] = {}

    def too_late() -> None:
        errors.print(f"gpu-check: ended after {END_S:g} s; what was measured is in {options.output}", markup=False)
        result.setdefault("failures", []).append(f"ended after {END_S:g} s")
        write_result(options.output, result)

    timer = end_after(END_S, too_late)
    try:
        check_gpu(
            preset_by_name(options.preset),
            result,
            precisions=options.precision or DEFAULT_PRECISIONS,
            seed=options.seed,
            clock=Clock(LIMIT_S),
            report=lambda line: console.print(f"gpu-check: {line}", markup=False),
        )
        write_result(options.output, result)
        _show(console, result, options.output)
        if result["failures"]:
            raise WrongOnGpu(result["failures"])
    except BuildUsageError as error:
        errors.print(f"gpu-check: {error}", markup=False)
        return 2
    except (BuildError, OSError) as error:
        errors.print(f"gpu-check: {error}", markup=False)
        return 1
    finally:
        timer.cancel()
    return 0


def _show(console: Console, result: Mapping[str, Any], output: Path) -> None:
    hardware = result["hardware"]
    console.print(
        f"{hardware['name']} ({hardware['compute_capability']}), driver {hardware['driver_version']}, "
        f"CUDA {hardware['cuda_version']}, {hardware['cpu']}",
        markup=False,
    )
    console.print(", ".join(f"{name} {found or 'absent'}" for name, found in result["versions"].items()), markup=False)
    for table in tables(result):
        console.print(table)
    console.print(f"{result['duration_s']:.0f} s; figures in {output}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
