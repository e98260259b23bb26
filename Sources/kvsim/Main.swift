// SPDX-License-Identifier: Apache-2.0
import Glibc
import SimulationKit

/// Runs both simulated worlds under many seeds; see dev/simulate.
///
/// `kvsim FIRST COUNT PROGRESS` runs the seeds from FIRST on. What fails prints its seed and
/// what led to it. PROGRESS is a file that names the seed under way, for the caller to know it when
/// this process ends early. The last line counts seeds, the one before what happened in them. A
/// seed does the same in each process that has SWIFT_DETERMINISTIC_HASHING=1 in its environment.
@main
enum Main {
    static func main() {
        let arguments = CommandLine.arguments
        guard arguments.count == 4, let first = UInt64(arguments[1]),
            let count = UInt64(arguments[2])
        else {
            print("usage: kvsim FIRST COUNT PROGRESS")
            exit(2)
        }
        // SAFETY: the strings live through the calls.
        let progress = unsafe open(arguments[3], O_WRONLY | O_CREAT | O_TRUNC, 0o644)
        var failureCount = 0
        var tally = SSDSimulationTally()
        for seed in first..<first + count {
            note(seed, in: progress)
            if !succeeds({ () throws(SimulationFailure) in try NodeSimulation(seed: seed).run() }) {
                failureCount += 1
                continue
            }
            let simulation = SSDSimulation(seed: seed)
            if !succeeds({ () throws(SimulationFailure) in try simulation.run() }) {
                failureCount += 1
            }
            tally += simulation.tally
        }
        print("counts: \(tally)")
        print("seeds=\(count) failures=\(failureCount)")
        exit(failureCount == 0 ? 0 : 1)
    }

    private static func succeeds(_ run: () throws(SimulationFailure) -> Void) -> Bool {
        do throws(SimulationFailure) {
            try run()
            return true
        } catch {
            print(error)
            fflush(nil)
            return false
        }
    }

    /// Twenty digits, so that each takes the place of the one before.
    private static func note(_ seed: UInt64, in progress: Int32) {
        let digits = String(seed)
        let line = String(repeating: "0", count: 20 - digits.utf8.count) + digits
        // SAFETY: the string lives through the call. Without the file, runs go on as well.
        unsafe _ = pwrite(progress, line, 20, 0)
    }
}
