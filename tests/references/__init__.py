"""What each transformation must equal, by name: a class of torch.optim, or a literal transcription of its paper.

Every module of this folder has a table `REFERENCES`, a table `HYPERPARAMETERS` of settings at which each number
matters, and a table `EXEMPT` of laws that need not hold, each where it is needed; `tests.cases` puts them together.
"""
