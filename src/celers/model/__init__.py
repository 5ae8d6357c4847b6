"""The values of celers: enumerations and frozen data classes, without any behaviour that needs a database.

One module per topic; import from the module (`celers.model.task`) or the public names from `celers`.
Nothing is imported here, so that a program pays only for the topics it uses.
"""
