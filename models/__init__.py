"""The field's other methods, a folder each: configuration, modeling, processing, and losses of its own.

A method keeps the contract of `retriever.py`, and is one row of the table in `registration.py`; everything else of the
package takes it as it takes FAFA.
"""
