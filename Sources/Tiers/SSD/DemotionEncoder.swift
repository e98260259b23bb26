// SPDX-License-Identifier: Apache-2.0

/// Makes smaller forms of chunks that are about to be written to SSD. The tiers only ask; what
/// forms there are is known above them.
package protocol DemotionEncoder: Sendable {
    /// A smaller form of the chunk `name`, which `hold` keeps in memory and `description` is of.
    ///
    /// Called, and returns, on the store's executor. Releases `hold`, perhaps after it returned.
    /// - Returns: a hold on the form, which the caller releases; nil when the chunk is to be
    ///   written as it is.
    nonisolated(nonsending) func encode(
        _ name: ChunkName, _ hold: Hold, _ description: ChunkDescription
    ) async -> Hold?
}
