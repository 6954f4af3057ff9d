"""AMC: can the explanations of a vision-language model be trained to point at the right thing?"""

__version__ = "0.1.0"
