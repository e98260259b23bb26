// SPDX-License-Identifier: Apache-2.0

/// Stops the process, in release builds too, when the programmer's assumption does not hold.
///
/// For errors of ours only; bad input and failed I/O are thrown, never trapped.
@inlinable
package func invariant(
    _ condition: @autoclosure () -> Bool,
    _ message: @autoclosure () -> StaticString,
    file: StaticString = #fileID,
    line: UInt = #line
) {
    precondition(condition(), "\(message())", file: file, line: line)
}
