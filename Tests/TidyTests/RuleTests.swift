// SPDX-License-Identifier: Apache-2.0

import Testing

private func swift(_ text: String, _ path: String = "Sources/Tiers/A.swift") -> SourceFile {
    SourceFile(path: path, text: text)
}

@Suite struct `The code mask` {
    @Test(arguments: [
        ("a // try?", "a        "), ("a /* { /* } */ { */ b", "a                   b"),
        (#"x("{", y)"#, "x(   , y)"), (#"x("\(f("}"))") }"#, "x(   f(   )  ) }"),
        (##"x(#"a"b{"#) }"##, "x(        ) }"), ("func `is { not`() {", "func           () {"),
        (#"m(of: /"{x}"/) {"#, "m(of:        ) {"), ("a / b / c", "a / b / c"),
        ("\"\"\"\n{\n\"\"\" }", "   \n \n    }"), (#"a("\\") { "}" "#, "a(    ) {     "),
    ])
    func `blanks out what is not code`(text: String, expected: String) {
        let masked = String(decoding: CodeMask.masked(Array(text.utf8)), as: UTF8.self)
        #expect(masked == expected)
    }
}

@Suite struct `A Swift rule` {
    @Test(arguments: [
        "let a = try? f()", "try! f()", "fatalError(\"\")", "print(1)", "DispatchQueue.main",
        "Task.detached {}", "x = Date()", "AsyncStream<Int> {}",
    ])
    func `finds banned text`(line: String) {
        #expect(SwiftRules.banned(swift(line)).map(\.line) == [1])
        #expect(SwiftRules.banned(swift("// " + line)) == [])
        #expect(SwiftRules.banned(swift(line, "Tests/TiersTests/A.swift")) == [])
    }

    @Test func `lets executables print, and other words end in a banned one`() {
        #expect(SwiftRules.banned(swift("print(1)", "Sources/kvctl/A.swift")) == [])
        #expect(
            SwiftRules.banned(swift("return .print(text)\nfingerprint(x)\ncase print(String)"))
                == [])
    }

    @Test func `finds Foundation where it does not belong`() {
        let text = "import Glibc\npackage import Foundation\n"
        #expect(SwiftRules.foundationFree(swift(text)).map(\.line) == [2])
        #expect(SwiftRules.foundationFree(swift(text, "Sources/kvctl/A.swift")) == [])
    }

    @Test func `finds functions that are too long`() {
        let body = String(repeating: "    f()\n", count: 69)
        let long = "struct A {\nfunc g(a: B = { 1 }) {\n" + body + "}\n}\n"
        let found = SwiftRules.functionLength(swift(long))
        #expect(found.map(\.line) == [2])
        #expect(found.first?.message == "a function of 71 lines; at most 70")
        let short = "struct A {\nfunc g() {\n" + body.dropLast(8) + "}\n}\n"
        #expect(SwiftRules.functionLength(swift(short)) == [])
    }

    @Test func `tells functions from declarations without a body`() {
        let text = """
            protocol P {
                func a(
                    b: C
                ) throws
                nonisolated func d()
                init()
            }
            struct S {
                init?(_ x: Int) {
                }
                func e() async
                    -> Int
                {
                    1
                }
                var f: Int { 1 }
            }
            """
        let functions = SwiftRules.functions(swift(text).code)
        #expect(functions.map(\.first) == [8, 10])
        #expect(functions.map(\.last) == [9, 14])
    }

    @Test(arguments: [
        ("unsafe f()", 1), ("// SAFETY: held.\nunsafe f()", 0), ("// unsafe", 0), ("\"unsafe\"", 0),
        ("final class A: @unchecked Sendable {}", 1), ("nonisolated(unsafe) var a = 1", 1),
        ("@unsafe func f() {}", 0), ("func f() {\nunsafe g()\n}", 1),
        ("let isUnsafe = unsafely", 0),
        ("// SAFETY: far.\n" + String(repeating: "f()\n", count: 12) + "unsafe f()", 1),
        (
            "func f() {\n// SAFETY: all.\n" + String(repeating: "f()\n", count: 20)
                + "unsafe f()\n}", 0
        ),
    ])
    func `asks for the reason of unsafe code`(text: String, count: Int) {
        #expect(SwiftRules.safetyComments(swift(text)).count == count)
    }
}

@Suite struct `A text rule` {
    @Test(arguments: [("a.md", "x \n"), ("a.c", "\tx\n"), ("a.yaml", "x\r\n"), ("a", "#!sh\nx \n")])
    func `finds stray whitespace`(path: String, text: String) {
        #expect(TextRules.whitespace(SourceFile(path: path, text: text)).count == 1)
    }

    @Test func `lets a Makefile have its tabs`() {
        let file = SourceFile(path: "Makefile", text: "a:\n\tb\n")
        #expect(TextRules.whitespace(file) == [])
    }

    @Test(arguments: ["a.swift", "a.py", "a.yaml", "Makefile"])
    func `asks for the licence line`(path: String) {
        #expect(TextRules.licence(SourceFile(path: path, text: "x\n")).count == 1)
        let good = SourceFile(path: path, text: "# SPDX-License-Identifier: Apache-2.0\n")
        #expect(TextRules.licence(good) == [])
    }

    @Test func `bounds lines and columns`() {
        let lines = SourceFile(path: "a.py", text: String(repeating: "x\n", count: 601))
        #expect(TextRules.size(lines).map(\.line) == [1])
        let columns = String(repeating: "é", count: 100)
        #expect(TextRules.size(SourceFile(path: "a.c", text: columns)) == [])
        #expect(TextRules.size(SourceFile(path: "a.c", text: columns + "x")).count == 1)
        #expect(TextRules.size(SourceFile(path: "a.c", text: columns + "https://x")) == [])
    }

    @Test func `finds leftovers`() {
        let text = "// FIX" + "ME: later\n"
        #expect(TextRules.leftovers(SourceFile(path: "a.swift", text: text)).count == 1)
    }
}

@Suite struct `A repository rule` {
    private let manifest = SourceFile(
        path: "Package.swift",
        text: """
            let yams = Target.Dependency.product(name: "Yams", package: "Yams")
            func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {}
            .package(url: "https://host/jpsim/Yams", from: "6.2.2"),
            .target(name: "CLinux", linkerSettings: [.linkedLibrary("uring")]),
            module("KVCore", []),
            module(
                "Settings", ["KVCore", yams]),
            tests("SettingsTests", ["Settings"]),
            """)

    @Test func `finds imports that the target's row lacks`() {
        let files = [
            manifest, swift("import Yams\nimport KVCore\nimport Glibc", "Sources/Settings/A.swift"),
            swift("package import Yams", "Sources/KVCore/A.swift"),
        ]
        let found = RepositoryRules.imports(Repository(files: files))
        #expect(found.map(\.path) == ["Sources/KVCore/A.swift"])
    }

    @Test func `finds dependencies that nobody described`() {
        let page = SourceFile(path: "docs/dependencies.md", text: "# D\n- Yams: for YAML\n")
        let found = RepositoryRules.dependencies(Repository(files: [manifest, page]))
        #expect(found.map(\.message) == ["liburing is not described in docs/dependencies.md"])
        #expect(RepositoryRules.dependencies(Repository(files: [manifest])).count == 2)
    }

    @Test func `finds libraries without a test`() {
        let test = swift("@testable import Settings", "Tests/SettingsTests/A.swift")
        let found = RepositoryRules.testedLibraries(Repository(files: [manifest, test]))
        #expect(found.map(\.message) == ["no test imports Sources/KVCore"])
    }

    @Test func `finds dead links and missing titles`() {
        let page = SourceFile(
            path: "docs/a.md",
            text: """
                # A
                [good](b.md#x) [up](../c/d.md) [folder](../c) [web](https://x.y) [here](#a)
                [dead](e.md) `[code](f.md)`
                ```
                # not a title [dead](g.md)
                ```
                """)
        let other = SourceFile(path: "docs/b.md", text: "no title\n")
        let repository = Repository(files: [page, other], otherPaths: ["c/d.md"])
        let found = RepositoryRules.markdown(repository)
        #expect(
            found.map(\.description) == [
                "docs/a.md:3: dead link: e.md", "docs/b.md:1: 0 titles ('# …'); a page has one",
            ])
    }
}
