"""What this computer lacks: `facts` are gathered, `checks` judges them, `trial` tries a GPU."""

from komad.doctor.checks import Check, Verdict, judge
from komad.doctor.facts import Facts, gather

__all__ = ["Check", "Facts", "Verdict", "gather", "judge"]
