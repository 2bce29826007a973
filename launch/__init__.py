# SPDX-License-Identifier: Apache-2.0
"""What start.py does, in three parts. Standard library only, since at first there is nothing else."""
