"""What `check_pure` and `guard` report: one finding for each impurity, with the fix that goes with its kind."""

from typing import NamedTuple

# Kind -> what to do about it.
FIXES = {
    "input written": "Compute a new value (x = x + 1, not x += 1), or work on x.clone().",
    "captured input": "Pass it as an argument. For a module: apply, params, buffers = ft.functionalize(module).",
    "captured state written": (
        "Return it. Of a module: output, buffers = apply(params, x, buffers=buffers), and ft.Aux(metrics, buffers); a "
        "log, as a metric; a value to go on from, as a buffer of your own, buffers={'model': ..., 'mean': ...}."
    ),
    "gradient written": "Take gradients with ft.grad or ft.grad_and_value, which return them.",
    "hook": "Return what the hook would keep or change as one more output.",
    "randomness": (
        "Draw with ft.random from a key that is an argument, one of ft.random.split(key, n) for each draw; in a "
        "module, apply(params, x, key=key)."
    ),
    "setting": "Set it outside of the function, or for a few lines in a with statement.",
    "file or process": "Return what belongs there, and let the caller write it.",
    "alias": "Return a copy, x.clone(), or the whole leaf as it is.",
    "uninitialized memory": "Fill it before it is read: torch.zeros, torch.full, or .copy_().",
    "second call differs": "Pass as an argument what it depends on: a key, a time, a count.",
}


class Finding(NamedTuple):
    """One impurity.

    Attributes:
        kind: One of "input written", "captured input", "captured state written", "gradient written", "hook",
            "randomness", "setting", "file or process", "alias", "uninitialized memory" and "second call differs".
        subject: What it concerns: the path of an argument's leaf, the name of what the function holds, a generator, a
            setting, a file; empty where there is nothing to name.
        what: What happened.
        line: Where, as `file:line: source`; empty where no line can be named.

    Example:
        >>> import functional_train as ft, torch
        >>> try:
        ...     ft.check_pure(lambda x: x.add_(1.0), torch.ones(2))
        ... except ft.PurityError as error:
        ...     finding = error.findings[0]
        >>> finding.kind, finding.subject, finding.what
        ('input written', 'x', "add_ writes to 'x'")
    """

    kind: str
    subject: str
    what: str
    line: str = ""

    @property
    def fix(self) -> str:
        """What to do instead."""
        return FIXES[self.kind]

    def __str__(self) -> str:
        return f"{self.what}{f', in {self.line}' if self.line else ''}\n    {self.fix}"
