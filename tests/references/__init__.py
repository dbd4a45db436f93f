"""What each transformation must equal, by name: a class of torch.optim, or a literal transcription of its paper.

Every module of this folder has a table `REFERENCES`, and a table `HYPERPARAMETERS` of settings at which each number
matters; `tests.cases` puts them together. A table `EXEMPT` says which law a transformation need not keep, and why.
"""
