// Package source turns a reference in a Git repository into a tree of files: ref -> Tree{lazy files, revision, verified}.
//
// It exists so that one reference listing tells whether anything changed, and nothing else is asked when nothing did.
// Git is spoken in process: http(s) through go-git, ssh through an own session, because go-git's reads ~/.ssh, the
// agent and proxy variables. Bare repositories and artifacts are the only things it writes, within a bound; both hold
// what Git holds, so no plaintext. Repositories are never shared between owners, not even equal objects.
//
// What is included, comes from submodules or is left out by a sparse checkout is composed as Git objects in the owner's own
// repository, so that everything behind it knows of one tree only.
//
// It must not start a program, read the environment or a file outside its folders, follow a symlink out of the
// repository or a redirect to another host, send credentials to a server that they were not given for, hand out a revision
// that did not pass the verification that was asked for, or put a credential or a server's text into an error.
// It knows no Kubernetes kind: controllers/gitrepository is its front end.
package source
