"""What makes stored responses go, and keeps those on their way from coming back."""
