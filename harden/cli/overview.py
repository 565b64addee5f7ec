"""What `harden --help` shows, without typer, whose import alone takes longer than all the rest."""

from __future__ import annotations

SUMMARY = "Harden any torch or timm image classifier against adversarial inputs, audit it, and ship it."
EPILOG = "Exit codes: 0 ok, 1 failure, 2 usage, 3 gate not met, 4 unsafe input, 5 export disagrees, 130 stopped."
COMMANDS = {
    "fit": "Harden a classifier: train it against adversarial examples, audit it before and after.",
    "report": "Audit a model: attack it, report what withstands the worst case, and whether that can be believed.",
    "compare": "Compare methods: train each at an equal budget, audit all on the same images, and say which wins.",
    "export": "Export a model to safetensors and ONNX, and prove that each file gives the model's answers, under "
    "attack too.",
    "verify": "Try an export again from its folder alone: hashes, scores, accuracy under attack. Exit with 5 if it "
    "differs.",
    "push": "Upload an export to the Hugging Face hub. No other command uploads anything.",
    "inspect": "Show the layers a model can be split at, the default split and why, and what the preflight finds.",
    "demo": "Run everything on scikit-learn's digits: train, harden, audit before and after, export.",
    "doctor": "Look at this machine: libraries, devices, threads, memory, folders; and say how to repair what is "
    "wrong.",
}
"""Every command, in the order shown, and what it does; the module of the same name in this package has its function."""
OPTIONS = {
    "--version": "Print the version and exit.",
    "--debug": "Show tracebacks.",
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Show completion for the current shell, to copy it or customize the installation.",
    "--help": "Show this message and exit.",
}


def show_overview() -> None:
    """Print all commands in the look of typer's own help."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    usage = Text.assemble(("Usage: ", "yellow"), ("harden [OPTIONS] COMMAND [ARGS]...", "bold"))
    console.print(Padding(usage, (1, 1)))
    console.print(Padding(SUMMARY, (0, 1, 1, 1)))
    for title, rows in (("Options", OPTIONS), ("Commands", COMMANDS)):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(style="bold cyan", no_wrap=console.width >= 40, overflow="fold")
        table.add_column()
        for name, text in rows.items():
            table.add_row(name, text)
        console.print(Panel(table, title=title, title_align="left", border_style="dim"))
    console.print(Padding(EPILOG, 1))
