# The bugs that the tests must catch, one file for each area; a sample takes the first of every area.
import importlib
import pkgutil

from mutants.mutant import Mutant

MUTANTS = [
    mutant
    for area in sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "mutant")
    for mutant in importlib.import_module(f"mutants.{area}").MUTANTS
]

__all__ = ["MUTANTS", "Mutant"]
