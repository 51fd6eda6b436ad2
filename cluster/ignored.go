package cluster

import "sealock.dev/sealock/manifest"

// Ignored takes the fields of which the owner says that they are no drift of o out of the bodies, for who compares a
// manifest with what is live outside of a plan.
func Ignored(owner manifest.Owner, o manifest.Object, bodies ...map[string]any) error {
	r, err := compileRules(owner, nil)
	if err != nil {
		return err
	}
	for _, p := range r.ignoredOf(o) {
		for _, body := range bodies {
			p.remove(body)
		}
	}
	return nil
}
