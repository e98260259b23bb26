// SPDX-License-Identifier: Apache-2.0

/// What this build is.
package enum Release {
    /// The version of the daemon, `kvctl` and the library; CHANGELOG.md has an entry for each.
    package static let version = "0.1.0"
}
