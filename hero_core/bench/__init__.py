# SPDX-License-Identifier: Apache-2.0
"""Measuring the loop against raters whose taste is known."""
