# SPDX-License-Identifier: Apache-2.0
"""Rating over HTTP: the routes over the store and the standalone app that serves them."""
