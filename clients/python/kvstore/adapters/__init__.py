# SPDX-License-Identifier: Apache-2.0
"""Adapters between inference engines and the store, one module an engine."""
