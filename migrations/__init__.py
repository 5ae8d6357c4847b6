"""Migration files of celers, installed as the data package `celers.migrations`."""
