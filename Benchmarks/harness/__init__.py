# SPDX-License-Identifier: Apache-2.0
"""Starts the servers, runs the load client cell by cell, judges the figures."""
