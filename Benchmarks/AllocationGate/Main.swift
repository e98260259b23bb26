// SPDX-License-Identifier: Apache-2.0
import Glibc

/// `allocation-gate`: how many heap allocations a node's thread makes per request, once warm.
///
/// Runs node and client in one process, each on a reactor of its own, counts on the node's thread
/// alone, and compares with what each operation may make. Ends with the line that CI reads.
@main
enum Main {
    static func main() async {
        do {
            let world = try await GateWorld()
            var failureCount = 0
            for operation in GateOperation.allCases {
                let count = try await world.measure(operation)
                let holds = operation.allocationCounts.contains(count)
                failureCount += holds ? 0 : 1
                print(
                    "\(holds ? "holds" : "FAILS")  \(operation.rawValue): \(count) allocations in "
                        + "\(GateWorld.requestCount) requests")
            }
            print("\(GateOperation.allCases.count - failureCount) passed, \(failureCount) failed")
            exit(failureCount == 0 ? EXIT_SUCCESS : EXIT_FAILURE)
        } catch {
            print("the gate could not be measured: \(error)")
            exit(EXIT_FAILURE)
        }
    }
}
