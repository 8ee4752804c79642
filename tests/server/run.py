#!/usr/bin/env python3
"""omni serve from outside, with nothing but Python's library: tests/server/run.py OMNI [TEST...]"""
import sys
import unittest

import harness

if __name__ == "__main__":
    harness.OMNI = sys.argv.pop(1)
    loader = unittest.TestLoader()
    names = ["test_answers", "test_connections", "test_costs", "test_keys", "test_hostile", "test_realtime", "test_responses", "test_speech", "test_transcriptions", "test_wyoming"]
    chosen = sys.argv[1:] or names
    suite = unittest.TestSuite(loader.loadTestsFromName(n) for n in chosen)
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    print(f"{result.testsRun - len(result.failures) - len(result.errors)} passed, {len(result.failures) + len(result.errors)} failed")
    sys.exit(0 if result.wasSuccessful() and result.testsRun > 0 else 1)
