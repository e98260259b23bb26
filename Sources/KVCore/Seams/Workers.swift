// SPDX-License-Identifier: Apache-2.0

/// Threads for work that takes longer than a reactor may stand still, such as compression. Any
/// thread may hand work over.
package protocol Workers: Sendable {
    /// Has `work` run once on one of the threads; false when too much waits already, or the threads
    /// are ending: it does not run then. Never waits.
    func submit(_ work: @escaping @Sendable () -> Void) -> Bool

    /// How much has been handed over and has not begun.
    var waitingCount: Int { get }
}
