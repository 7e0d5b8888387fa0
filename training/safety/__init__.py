"""What keeps a run from being lost: checkpoints, exact resuming, the guard, averages, the end by SIGTERM.

Nowhere else are private methods of transformers' Trainer overridden; tests/training/safety/test_hooks.py tells when one
of them changes.
"""
