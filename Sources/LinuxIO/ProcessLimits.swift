// SPDX-License-Identifier: Apache-2.0
internal import CLinux
package import KVCore

/// Limits of this process (getrlimit(2)).
package enum ProcessLimits {
    /// Raises the number of descriptors that this process may open to its hard limit.
    /// - Returns: the number that holds from now on: connections, files and shared regions
    /// together.
    /// - Throws: `.system` when the limit cannot even be read.
    package static func raiseDescriptorCount() throws(IOFault) -> Int {
        let limit = clinux_raise_descriptor_limit()
        guard limit >= 0 else { throw .system(Int32(clamping: -limit)) }
        return Int(limit)
    }
}
