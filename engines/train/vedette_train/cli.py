"""The command line."""
import argparse
import sys
from pathlib import Path

from . import recipe as recipes
from .errors import KitError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
COMMANDS = {
    "clips": "read the data, say what is in it; --out writes a clips.csv of it",
    "features": "compute and keep all features (the others do it when needed)",
    "compare": "all heads in one table, on the same features and folds",
    "evaluate": "judge the recipe by source: tables, intervals, calibration, curves",
    "fit": "train on all clips, calibrated by what evaluate found",
    "quiet": "false alarms a camera-hour on ordinary videos (--normal)",
    "quantize": "int8 encoder for CPUs, kept if it is as good",
    "export": "write the model directory, checked, proven by the agent",
    "judge": "the model by Python and by `vedette evaluate`: they have to agree",
    "smoke": "the whole way on generated clips, in a minute",
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="vedette_train", description="Train, compare, judge and export models for Vedette.",
                                  epilog="Begin with engines/train/README.md.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        p = commands.add_parser(name, help=what, description=what)
        p.add_argument("--vedette", default="vedette", metavar="PROGRAM", help="the agent's program [vedette]")
        p.add_argument("--cache", type=Path, default=Path(".cache/train"), metavar="DIR", help="features, encoders, heads [.cache/train]")
        p.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads [1]")
        if name == "smoke":
            p.add_argument("--model", type=Path, required=True, metavar="DIR", help="model directory whose encoder the light run takes")
            p.add_argument("--full", action="store_true", help="with PyTorch: MobileNetV2 and an LSTM with attention")
            continue
        p.add_argument("--recipe", required=True, metavar="NAME|FILE", help="a recipe of the kit, or a TOML file")
        p.add_argument("--data", type=Path, required=name != "export", metavar="PATH", help="clips.csv, or a folder of UCF-Crime")
        p.add_argument("--classmap", metavar="NAME|FILE", help="which label is which class [UCF-Crime: by the recipe's classes; CSV: none]")
        p.add_argument("--split", default="folds", choices=["folds", "holdout", "anomaly", "action-1", "action-2", "action-3", "action-4"],
                       help="how it is judged; the last five are UCF-Crime's own [folds]")
        p.add_argument("--normal", type=Path, metavar="DIR", help="ordinary videos, for hard negatives and false alarms")
        p.add_argument("--run", type=Path, metavar="DIR", help="what is found out goes here [CACHE/runs/RECIPE]")
        if name == "clips":
            p.add_argument("--out", type=Path, metavar="CSV")
        if name == "compare":
            p.add_argument("--kinds", default="", metavar="A,B", help="heads to compare [all]")
            p.add_argument("--heads", type=int, metavar="N", help="seeds averaged [the recipe's]")
        if name == "quiet":
            p.add_argument("--stride", type=int, metavar="N", help="frames from window to window [the recipe's]")
        if name in ("export", "judge"):
            p.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model directory")
        if name == "export":
            p.add_argument("--int8", action="store_true", help="take in the encoder that quantize kept")
    return top


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    try:
        return run(args)
    except KitError as e:
        print(f"vedette_train: {e}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    limit_threads(args.threads)
    if args.command == "smoke":
        from . import smoke
        smoke.run(args.vedette, args.model, args.cache, args.full, args.threads)
        return 0
    from . import commands, metrics
    from .workspace import Workspace
    path = RECIPES / f"{args.recipe}.toml"
    recipe = recipes.read(path if path.is_file() else Path(args.recipe))
    ws = Workspace(recipe, args.data or Path("clips.csv"), args.classmap, args.split, args.cache, args.run or args.cache / "runs" / recipe.name,
                   args.vedette, args.threads, args.normal)
    ws.run.mkdir(parents=True, exist_ok=True)
    match args.command:
        case "clips": commands.clips(ws, args.out)
        case "features": commands.features(ws)
        case "compare": commands.compare(ws, [k for k in args.kinds.split(",") if k], args.heads)
        case "evaluate": commands.evaluate(ws)
        case "fit": commands.fit(ws)
        case "quiet": commands.quiet_videos(ws, args.stride)
        case "quantize": commands.quantized(ws)
        case "export": commands.export(ws, args.out, args.int8)
        case "judge":
            mine, _, different = commands.judge(ws, args.out)
            print(metrics.text(mine))
            print("\n".join(different) or "the kit and `vedette evaluate` agree")
            print("these clips may be the ones it was trained on: figures of unseen sources are `evaluate`'s")
            return 1 if different else 0
    return 0


def limit_threads(count: int) -> None:
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(count)
