"""AMC: can the explanations of a vision-language model be trained to point at the right thing?"""

from amc_lib.grounder import Grounder, Grounding

__version__ = "0.1.0"
__all__ = ["Grounder", "Grounding"]
